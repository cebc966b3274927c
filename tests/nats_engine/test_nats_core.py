"""Core NATS on a real server, and on servers that break the protocol."""

from __future__ import annotations

import threading
import time

import pytest
from engine_support import Conversation, FakeBus, Inbox, ScriptedServer

from eventbus.config_tls import TlsConfig
from eventbus.errors import (
    EventBusError,
    NotConnectedError,
    PublishRejectedError,
    SessionRetired,
    SubscribeError,
)
from eventbus.publishing.records import Extras, key_of
from eventbus.testing import wait_until

pytestmark = pytest.mark.nats


@pytest.fixture
def session(nats_server_shared, connect):
    return connect(nats_server_shared, jetstream=False)


def test_messages_arrive_in_order_and_whole(bus, session):
    inbox = Inbox("core.order.*", group=None).attach(session)
    records = [
        bus.record(f"core.order.{number % 3}", b"x" * number, "käy" if number % 2 else None, {"A": f"{number}"})
        for number in range(300)
    ]
    for record in records:
        session.publisher.publish([record])
    inbox.wait(300)
    wait_until(lambda: bus.answered == 300)
    assert [record.number for record in bus.was_sent] == [record.number for record in records]
    for record, delivery in zip(records, inbox.got, strict=True):
        assert (delivery.topic, delivery.payload, delivery.key) == (record.topic, record.payload, key_of(record))
        assert delivery.raw_headers == record.extras.headers
        assert delivery.id == f"{bus.origin}-{record.number:012d}"
        assert (delivery.attempt, delivery.identity, delivery.token) == (1, None, None)
        assert abs(delivery.timestamp.timestamp() - time.time()) < 60


def test_plain_tuples_are_records(bus, session):
    inbox = Inbox("core.tuple", group=None).attach(session)
    session.publisher.publish([(next(bus.numbers), "core.tuple", b"x", None, None)])
    session.publisher.publish([(next(bus.numbers), "core.tuple", b"y", Extras(id="my-id"), None)])
    inbox.wait(2)
    assert [delivery.id for delivery in inbox.got] == [f"{bus.origin}-{1:012d}", "my-id"]


@pytest.mark.parametrize("size", [0, 1, 8192, 8193, 65536, 900_000])
def test_every_size(bus, session, size):
    inbox = Inbox("core.size", group=None).attach(session)
    payload = bytes(range(256)) * (size // 256) + b"\r\n"[: size % 256]
    for _ in range(5):
        session.publisher.publish([bus.record("core.size", payload)])
    assert inbox.wait(5) == [payload] * 5


def test_a_burst_from_several_threads(bus, session):
    inbox = Inbox("core.burst.*", group=None).attach(session)

    def publish(name: int) -> None:
        for number in range(5000):
            session.publisher.publish([bus.record(f"core.burst.{name}", b"%d" % number)])

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    inbox.wait(20_000)
    for name in range(4):
        mine = [delivery.payload for delivery in inbox.got if delivery.topic.endswith(f".{name}")]
        assert mine == [b"%d" % number for number in range(5000)]
    wait_until(lambda: len(bus.was_sent) == 20_000)
    assert bus.unanswered == []


def test_groups_share_and_others_copy(bus, nats_server_shared, connect):
    members = [connect(nats_server_shared, jetstream=False) for _ in range(2)]
    shared = [Inbox("core.share", group="team").attach(member) for member in members]
    copy = Inbox("core.share", group=None).attach(members[0])
    bus.publish_all(connect(nats_server_shared, jetstream=False), "core.share", 200)
    copy.wait(200)
    wait_until(lambda: sum(len(inbox.got) for inbox in shared) == 200)
    assert all(inbox.got for inbox in shared)


def test_wildcards_leave_out_what_is_not_for_them(bus, session):
    everything = Inbox(">", group=None).attach(session)
    letters = Inbox("dlq.>", group=None).attach(session)
    session.publisher.publish([bus.record("dlq.team.core", b"letter")])
    session.publisher.publish([bus.record("core.plain", b"message")])
    letters.wait(1)
    everything.wait(1)
    session.probe(2.0, bus.stop)
    assert everything.payloads == [b"message"]
    assert letters.payloads == [b"letter"]


def test_detach_ends_delivery(bus, session):
    inbox = Inbox("core.detach", group=None).attach(session)
    bus.publish_all(session, "core.detach", 1)
    inbox.wait(1)
    session.detach(inbox.attachment, 2.0)
    session.detach(inbox.attachment, 2.0)
    bus.publish_all(session, "core.detach", 5)
    session.probe(2.0, bus.stop)
    assert len(inbox.got) == 1


def test_too_large_is_rejected_before_it_costs_the_link(bus, serve, connect):
    session = connect(serve(jetstream=False, max_payload=2000), jetstream=False)
    fits = 2000 - len(f"NATS/1.0\r\nNats-Msg-Id: {bus.origin}-{1:012d}\r\n\r\n")
    session.publisher.publish([bus.record("core.large", b"x" * fits)])
    session.publisher.publish([bus.record("core.large", b"x" * (fits + 1))])
    session.publisher.publish([bus.record("core.large", b"", headers={"H": "x" * 2000})])
    errors = [error for _, error in bus.was_failed]
    assert [type(error) for error in errors] == [PublishRejectedError] * 2
    assert errors[0].id == f"{bus.origin}-{2:012d}"
    session.probe(2.0, bus.stop)
    assert not bus.losses
    wait_until(lambda: len(bus.was_sent) == 1)


@pytest.mark.parametrize(
    "bad",
    [
        {"topic": "a b"},
        {"topic": "a\r\nPUB evil 0\r\n\r\n"},
        {"topic": ""},
        {"topic": "a..b"},
        {"topic": "a", "key": "k\r\nEvil: 1"},
        {"topic": "a", "headers": {"H": "v\nEvil: 1"}},
        {"topic": "a", "headers": {"H\r\nEvil": "v"}},
        {"topic": "a", "id": "i\r\n\r\nbody"},
    ],
)
def test_nothing_breaks_out_of_its_frame(bus, session, bad):
    spy = Inbox(">", group=None).attach(session)
    session.publisher.publish([bus.record(**bad), bus.record("core.after", b"fine")])
    assert [type(error) for _, error in bus.was_failed] == [PublishRejectedError]
    spy.wait(1)
    assert spy.payloads == [b"fine"]


def test_permissions_cost_one_message_and_not_the_link(bus, serve, connect):
    server = serve(
        jetstream=False,
        config="""authorization { users: [{ user: u, password: p, permissions: {
            publish: { deny: "secret.>" }, subscribe: { deny: "hidden" } } }] }""",
    )
    session = connect(server, jetstream=False, user="u", password="p")
    inbox = Inbox("open.*", group=None).attach(session)
    for number in range(10):
        session.publisher.publish([bus.record("secret.x" if number == 4 else "open.x", b"%d" % number)])
    inbox.wait(9)
    wait_until(lambda: bus.answered == 10)
    ((record, error),) = bus.was_failed
    assert record.payload == b"4"
    assert isinstance(error, PublishRejectedError)
    assert "Permissions Violation" in str(error)
    hidden = Inbox("hidden", group=None).attach(session)
    wait_until(lambda: bus.refusals)
    ((attachment, error),) = bus.refusals
    assert attachment is hidden.attachment
    assert isinstance(error, SubscribeError)
    assert bus.served == [inbox.attachment]
    assert not bus.losses
    assert all(isinstance(error, EventBusError) for error in bus.errors)
    assert not any("secret.x" in str(error) for error in bus.errors), "whoever published it was told"


def test_probe_measures(bus, session):
    assert session.probe(2.0, bus.stop).startswith("rtt ")


def test_a_closed_session_takes_nothing(bus, nats_server_shared, connect):
    session = connect(nats_server_shared, jetstream=False)
    assert session.close(5.0) == ()
    assert session.close(5.0) == ()
    assert session.publisher.publish([bus.record("a")]) == 0
    with pytest.raises(SessionRetired):
        session.attach([Inbox("a").attachment])
    with pytest.raises(NotConnectedError):
        session.probe(1.0, bus.stop)
    with pytest.raises(NotConnectedError):
        session.prepare([Inbox("a").attachment], 1.0)
    session.acknowledge(Inbox("a").attachment, [])
    session.detach(Inbox("a").attachment, 1.0)
    session.drain(1.0)
    assert not bus.losses  # an end on purpose is no loss


def test_everything_over_tls(bus, serve, connect, certificates):
    server = serve(jetstream=False, tls=certificates)
    session = connect(server, jetstream=False, tls=TlsConfig(ca=str(certificates.ca)))
    inbox = Inbox("tls.*", group=None).attach(session)
    payload = bytes(range(256)) * 1500
    for number in range(3000):
        session.publisher.publish([bus.record("tls.small", b"%d" % number)])
        if number % 500 == 0:
            session.publisher.publish([bus.record("tls.large", payload)])
    inbox.wait(3006)
    assert [one.payload for one in inbox.got if one.topic == "tls.large"] == [payload] * 6
    assert [one.payload for one in inbox.got if one.topic == "tls.small"] == [b"%d" % n for n in range(3000)]
    server.kill()
    wait_until(lambda: bus.losses, 5.0)


# -- the end of the link --------------------------------------------------------------------------


def test_a_killed_server_is_noticed_at_once(bus, serve, connect):
    server = serve(jetstream=False)
    session = connect(server, jetstream=False)
    killed = time.monotonic()
    server.kill()
    wait_until(lambda: bus.losses, 2.0)
    assert time.monotonic() - killed < 1.0
    ((lost, cause),) = bus.losses
    assert lost is session
    assert session.lost is cause
    assert session.publisher.publish([bus.record("a")]) == 0
    with pytest.raises(NotConnectedError):
        session.probe(5.0, bus.stop)


def test_abandoned_it_takes_nothing_and_says_nothing_more_of_what_is_lost(bus, serve, connect):
    server = serve(jetstream=False)
    session = connect(server, jetstream=False)
    server.freeze()
    accepted = bus.publish_all(session, "core.kept", 30_000)
    server.kill()
    wait_until(lambda: bus.losses, 5.0)
    session.abandon()
    assert bus.unanswered
    assert [*bus.was_sent, *bus.unanswered] == accepted
    assert session.publisher.publish([bus.record("core.kept")]) == 0


def test_a_frozen_server_is_dropped_by_the_pings(bus, serve, connect):
    server = serve(jetstream=False)
    session = connect(server, jetstream=False, ping_interval=0.2, max_pings_out=2)
    server.freeze()
    frozen = time.monotonic()
    payload = b"x" * 100_000
    for _ in range(200):  # more than the buffers hold: the writer waits, the publisher does not
        session.publisher.publish([bus.record("core.frozen", payload)])
    assert time.monotonic() - frozen < 1.0
    assert len(bus.unanswered) == 200
    with pytest.raises(NotConnectedError, match="no answer to PING"):
        session.probe(0.1, bus.stop)
    wait_until(lambda: bus.losses, 3.0)
    assert "silent" in str(session.lost)
    session.abandon()
    assert len(bus.unanswered) == 200
    assert session.close(2.0) == ()


def test_close_is_quick_on_a_frozen_server(bus, serve, connect):
    server = serve(jetstream=False)
    session = connect(server, jetstream=False)
    inbox = Inbox("core.close", group=None).attach(session)
    server.freeze()
    session.publisher.publish([bus.record("core.close", b"x" * 900_000)])
    started = time.monotonic()
    session.detach(inbox.attachment, 0.3)
    session.drain(0.3)
    assert session.close(1.0) == ()
    assert time.monotonic() - started < 1.5


def test_probes_of_a_slow_server_do_not_pile_up(bus, serve, connect, tcp_proxy):
    server = serve(jetstream=False)
    proxy = tcp_proxy(*server.address)
    session = connect(f"127.0.0.1:{proxy.port}", jetstream=False)
    proxy.black_hole(to_server=False)
    for _ in range(20):
        with pytest.raises(NotConnectedError):
            session.probe(0.02, bus.stop)
    assert len(session._connection.writer.pongs) == 1
    proxy.accept()
    assert not bus.losses


def test_a_stuck_publish_fails_the_probe(bus, session, monkeypatch):
    monkeypatch.setattr("eventbus.backends.nats.core.session.STUCK", 0.0)
    monkeypatch.setattr(session._publisher, "oldest", lambda: time.monotonic() - 1.0)
    with pytest.raises(NotConnectedError, match="no answer for"):
        session.probe(2.0, bus.stop)


def test_lame_duck_is_told_once(bus, serve, connect):
    server = serve(jetstream=False, lame_duck_grace=0.3)
    session = connect(server, jetstream=False)
    server.lame_duck()
    wait_until(lambda: bus.errors, 5.0)
    assert "lame duck" in str(bus.errors[0])
    session.probe(2.0, bus.stop)
    wait_until(lambda: bus.losses, 40.0)
    assert len(bus.errors) == 1
    server.wait_gone()


BREAKING = {
    "closes": lambda link: link.end(),
    "half a frame": lambda link: (link.send(b"MSG a 1 10\r\nabc"), link.end()),
    "no end of payload": lambda link: link.send(b"MSG a 1 3\r\nabcdefgh\r\n"),
    "header larger than all": lambda link: link.send(b"HMSG a 1 90 12\r\n" + b"x" * 90),
    "huge size": lambda link: link.send(b"MSG a 1 99999999999\r\n"),
    "negative size": lambda link: link.send(b"MSG a 1 -5\r\n"),
    "size that is none": lambda link: link.send(b"MSG a 1 1e3\r\n"),
    "too many words": lambda link: link.send(b"MSG a 1 2 3 4 5\r\n"),
    "unknown word": lambda link: link.send(b"BOO\r\n"),
    "empty line": lambda link: link.send(b"\r\n"),
    "endless line": lambda link: [link.send(b"M" * 65536) for _ in range(64)],
    "INFO without end": lambda link: [link.send(b"INFO " + b"x" * 65536) for _ in range(64)],
    "INFO that is none": lambda link: link.send(b"INFO {\r\n"),
    "PONG nobody asked for": lambda link: link.send(b"PONG\r\n" * 20),
    "stale": lambda link: (link.send(b"-ERR 'Stale Connection'\r\n"), link.end()),
    "authentication expired": lambda link: (link.send(b"-ERR 'User Authentication Expired'\r\n"), link.end()),
    "parser error": lambda link: (link.send(b"-ERR 'Unknown Protocol Operation'\r\n"), link.end()),
}


@pytest.mark.parametrize("then", BREAKING.values(), ids=BREAKING)
def test_a_broken_peer_ends_the_session_once(bus, connect, then):
    go = threading.Event()

    def script(link: Conversation) -> None:
        link.greet()
        go.wait(5.0)
        then(link)
        link.hang()

    with ScriptedServer(script) as server:
        session = connect(server.url, jetstream=False)
        failures: list[BaseException] = []

        def probe() -> None:
            try:
                session.probe(10.0, bus.stop)
            except NotConnectedError as error:
                failures.append(error)

        thread = threading.Thread(target=probe)
        thread.start()
        session.publisher.publish([bus.record("a", b"x")])
        go.set()
        wait_until(lambda: bus.losses, 3.0)
        thread.join(2.0)
        if then is not BREAKING["PONG nobody asked for"]:
            assert failures  # whoever waited was told at once
        assert session.close(2.0) == ()
    assert len(bus.losses) == 1
    assert isinstance(session.lost, NotConnectedError)
    assert str(session.lost)


def test_what_the_server_said_is_the_cause(bus, connect):
    def script(link: Conversation) -> None:
        link.greet()
        link.expect(b"HPUB")
        BREAKING["stale"](link)

    with ScriptedServer(script) as server:
        session = connect(server.url, jetstream=False)
        session.publisher.publish([bus.record("a")])
        wait_until(lambda: bus.losses, 3.0)
        assert "Stale Connection" in str(session.lost)


def test_harmless_lines_do_nothing(bus, connect):
    def script(link: Conversation) -> None:
        link.greet()
        link.send(b"+OK\r\nPING\r\nINFO {}\r\n-ERR 'Permissions Violation for Publish to \"x\"'\r\n")
        link.send(b"MSG a 99 2\r\nhi\r\n")
        if b"PING\r\n" not in link.expect(b"PONG\r\n"):  # the probe may be quicker
            link.expect(b"PING\r\n")
        link.send(b"PONG\r\n")
        link.hang()

    with ScriptedServer(script) as server:
        session = connect(server.url, jetstream=False)
        session.probe(3.0, bus.stop)
        assert not bus.losses
        assert len(bus.errors) == 1


def test_a_hundred_sessions_leave_nothing(bus: FakeBus, nats_server_shared, connect):
    before = threading.active_count()
    for _ in range(100):
        session = connect(nats_server_shared, jetstream=False)
        session.publisher.publish([bus.record("core.many", b"x")])
        assert session.close(5.0) == ()
    assert threading.active_count() == before
