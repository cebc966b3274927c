"""JetStream on a real server: publishing with confirmation, streams, durables, redelivery."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress

import pytest
from engine_support import FakeBus, Inbox

from eventbus.backends.nats import NatsBackend
from eventbus.backends.nats.jetstream.api import SECOND, JetStreamApi
from eventbus.backends.nats.jetstream.asking import ApiError
from eventbus.config import NatsConfig
from eventbus.errors import PublishRejectedError, SubscribeError
from eventbus.publishing.records import key_of
from eventbus.testing import wait_until
from eventbus.threads import Deadline

pytestmark = pytest.mark.nats


@pytest.fixture
def session(nats_server, connect):
    return connect(nats_server)


@pytest.fixture
def api(session) -> JetStreamApi:
    return JetStreamApi(session._connection)


def call(api: JetStreamApi, operation: str, request: dict | None = None) -> dict:
    return api.run(api.call(operation, request), Deadline(5.0))


def make_stream(api: JetStreamApi, name: str, *subjects: str, **config) -> dict:
    return call(api, f"STREAM.CREATE.{name}", {"name": name, "subjects": list(subjects), **config})


def confirmed(bus: FakeBus, count: int, timeout: float = 10.0) -> None:
    wait_until(lambda: bus.answered >= count, timeout, message=lambda: f"{bus.answered} of {count}")
    assert not bus.was_failed
    assert len(bus.was_confirmed) == count


# -- publishing -----------------------------------------------------------------------------------


def test_publishes_are_confirmed_in_order(bus, session):
    records = bus.publish_all(session, "orders.eu.new", 2000)
    confirmed(bus, 2000)
    assert [(record.number, stream, sequence) for record, stream, sequence, _ in bus.was_confirmed] == [
        (record.number, "orders", position) for position, record in enumerate(records, 1)
    ]
    assert bus.unanswered == []


def test_the_stream_is_made_as_designed(bus, session, api):
    session.publisher.publish([bus.record("orders.eu.new")])
    session.publisher.publish([bus.record("orders")])
    confirmed(bus, 2)
    config = call(api, "STREAM.INFO.orders")["config"]
    assert config["subjects"] == ["orders", "orders.>"]
    assert (config["storage"], config["num_replicas"], config["retention"]) == ("file", 1, "limits")
    assert config["duplicate_window"] == 600 * SECOND


def test_stream_settings_are_merged(bus, nats_server, connect):
    session = connect(nats_server, stream={"max_age": 60 * SECOND, "storage": "memory"})
    session.publisher.publish([bus.record("short.x")])
    confirmed(bus, 1)
    config = call(JetStreamApi(session._connection), "STREAM.INFO.short")["config"]
    assert (config["storage"], config["max_age"]) == ("memory", 60 * SECOND)
    assert config["duplicate_window"] == 60 * SECOND


def test_one_id_is_stored_once(bus, session):
    for _ in range(3):
        session.publisher.publish([bus.record("orders.x", b"p", id="the-one")])
    confirmed(bus, 3)
    assert [(sequence, duplicate) for _, _, sequence, duplicate in bus.was_confirmed] == [
        (1, False),
        (1, True),
        (1, True),
    ]


def test_an_existing_stream_is_adopted(bus, session, api):
    make_stream(api, "MINE", "orders.*")
    session.publisher.publish([bus.record("orders.x")])
    confirmed(bus, 1)
    assert bus.was_confirmed[0][1] == "MINE"


def test_many_first_tokens_at_once(bus, session):
    for number in range(60):
        session.publisher.publish([bus.record(f"topic-{number % 20}.x", b"%d" % number)])
    confirmed(bus, 60)


def test_a_race_to_create_has_no_loser(bus, nats_server, connect):
    sessions = [connect(nats_server) for _ in range(6)]
    threads = [threading.Thread(target=bus.publish_all, args=(one, "race.x", 20)) for one in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    confirmed(bus, 120)


def test_a_stream_that_cannot_be_made_rejects(bus, session, api):
    make_stream(api, "OTHER", "orders.eu")
    session.publisher.publish([bus.record("orders.us")])
    session.publisher.publish([bus.record("fine.x")])
    wait_until(lambda: bus.answered == 2)
    ((record, error),) = bus.was_failed
    assert record.topic == "orders.us"
    assert isinstance(error, PublishRejectedError)
    assert "orders" in str(error)
    assert bus.unanswered == []


@pytest.mark.parametrize("setting", ["no_ack", "sealed"])
def test_publishing_to_streams_that_confirm_nothing_is_refused(bus, session, api, setting):
    made = make_stream(api, "BAD", "bad.>", **({"no_ack": True} if setting == "no_ack" else {}))
    if setting == "sealed":
        call(api, "STREAM.UPDATE.BAD", {**made["config"], "sealed": True})
    session.publisher.publish([bus.record("bad.x")])
    wait_until(lambda: bus.was_failed)
    assert setting in str(bus.was_failed[0][1])


def test_streams_that_take_or_confirm_nothing_are_read(bus, session, api):
    """What others have put there is as good as anything."""
    made = make_stream(api, "OLD", "old.>")
    bus.publish_all(session, "old.x", 3)
    confirmed(bus, 3)
    call(api, "STREAM.UPDATE.OLD", {**made["config"], "sealed": True})
    assert Inbox("old.x").attach(session).wait(3) == [b"0", b"1", b"2"]
    make_stream(api, "LOUD", "loud.>", no_ack=True)
    inbox = Inbox("loud.x").attach(session)
    session._connection.writer.write(b"PUB loud.x 1\r\nx\r\n")
    assert inbox.wait(1) == [b"x"]


def test_settings_that_lose_messages_are_warned_of_once(bus, nats_server, connect, caplog):
    admin = JetStreamApi(connect(nats_server)._connection)
    make_stream(admin, "LOSSY", "lossy.>", max_msgs=10, duplicate_window=SECOND)
    session = connect(nats_server)
    session.publisher.publish([bus.record("lossy.x")])
    confirmed(bus, 1)
    Inbox("lossy.>").attach(session)
    warnings = [record.getMessage() for record in caplog.records if "LOSSY" in record.getMessage()]
    assert len(warnings) == 1
    assert "max_msgs=10" in warnings[0]
    assert "duplicate window of 1 s" in warnings[0]


def test_a_refused_message_fails_alone(bus, session, api):
    make_stream(api, "SMALL", "small.>", max_msg_size=100)
    for number in range(10):
        session.publisher.publish([bus.record("small.x", b"x" * (200 if number == 4 else 10))])
    wait_until(lambda: bus.answered == 10)
    ((record, error),) = bus.was_failed
    assert len(record.payload) == 200
    assert isinstance(error, PublishRejectedError)


def test_a_full_stream_is_tried_again_until_there_is_room(bus, session, api):
    make_stream(api, "FULL", "full.>", max_msgs=5, discard="new")
    bus.publish_all(session, "full.x", 8)
    wait_until(lambda: len(bus.was_confirmed) == 5)
    assert len(bus.unanswered) == 3
    call(api, "STREAM.PURGE.FULL")
    confirmed(bus, 8)
    numbers = [record.number for record, _, _, _ in bus.was_confirmed]
    assert numbers == sorted(numbers)


def test_a_deleted_stream_is_made_again_and_order_kept(bus, session, api):
    bus.publish_all(session, "gone.x", 10)
    confirmed(bus, 10)
    call(api, "STREAM.DELETE.gone")
    bus.publish_all(session, "gone.x", 500, start=10)
    session.publisher.publish([bus.record("kept.x")])  # another stream is not held up
    wait_until(lambda: any(record.topic == "kept.x" for record, *_ in bus.was_confirmed), 1.5)
    confirmed(bus, 511, timeout=15.0)
    inbox = Inbox("gone.>").attach(session)
    assert inbox.wait(500) == [b"%d" % number for number in range(10, 510)]


def test_permission_to_publish_only(bus, serve, connect):
    server = serve(
        config="""authorization { users: [
            { user: admin, password: p },
            { user: u, password: p, permissions: {
                publish: ["orders.>", "$JS.API.INFO"], subscribe: "_INBOX.>" } }
        ] }"""
    )
    admin = JetStreamApi(connect(server, user="admin", password="p")._connection)
    make_stream(admin, "orders", "orders.>")
    session = connect(server, user="u", password="p")
    session.publisher.publish([bus.record("orders.x")])
    session.publisher.publish([bus.record("secret.x")])
    wait_until(lambda: bus.answered == 2)
    assert [record.topic for record, *_ in bus.was_confirmed] == ["orders.x"]
    assert [record.topic for record, _ in bus.was_failed] == ["secret.x"]
    with pytest.raises(SubscribeError, match="Permissions Violation"):
        Inbox("orders.x").attach(session)
    assert not bus.losses


# -- consuming ------------------------------------------------------------------------------------


def test_messages_arrive_whole_and_once(bus, session):
    inbox = Inbox("orders.*").attach(session)
    records = [
        bus.record(f"orders.{number % 3}", b"%d" % number, f"k{number}", {"Name": "välue"}) for number in range(3000)
    ]
    for record in records:
        session.publisher.publish([record])
    inbox.wait(3000)
    for record, delivery in zip(records, inbox.got, strict=True):
        assert (delivery.topic, delivery.payload, delivery.key) == (record.topic, record.payload, key_of(record))
        assert delivery.headers == {"Name": "välue"}
        assert delivery.id == f"{bus.origin}-{record.number:012d}"
        assert delivery.attempt == 1
        assert abs(delivery.timestamp.timestamp() - time.time()) < 60
    assert len({delivery.identity for delivery in inbox.got}) == 3000


def test_the_group_goes_on_where_it_was(bus, nats_server, connect):
    first = connect(nats_server)
    bus.publish_all(first, "orders.x", 100)
    inbox = Inbox("orders.>").attach(first)
    inbox.wait(100)
    first.detach(inbox.attachment, 2.0)
    first.close(5.0)
    second = connect(nats_server)
    bus.publish_all(second, "orders.x", 10, start=100)
    again = Inbox("orders.>").attach(second)
    assert again.wait(10) == [b"%d" % number for number in range(100, 110)]


def test_earliest_and_latest(bus, session):
    bus.publish_all(session, "orders.x", 5)
    confirmed(bus, 5)
    late = Inbox("orders.x", group="late", start="latest").attach(session)
    early = Inbox("orders.x", group="early").attach(session)
    bus.publish_all(session, "orders.x", 5, start=5)
    assert early.wait(10) == [b"%d" % number for number in range(10)]
    assert late.wait(5) == [b"%d" % number for number in range(5, 10)]


def test_what_is_not_acknowledged_comes_again(bus, nats_server, connect):
    session = connect(nats_server, ack_wait=0.5)
    inbox = Inbox("orders.x")
    inbox.acknowledging = False
    inbox.attach(session)
    bus.publish_all(session, "orders.x", 3)
    inbox.wait(3)
    released = inbox.in_hand.drop(inbox.got, inbox.in_hand.lease)
    session.release(inbox.attachment, released)  # at once
    inbox.wait(6, timeout=0.45)
    assert sorted(inbox.payloads[3:]) == [b"0", b"1", b"2"]
    assert {delivery.attempt for delivery in inbox.got[3:]} == {2}
    assert {delivery.identity for delivery in inbox.got[3:]} == {delivery.identity for delivery in inbox.got[:3]}


def test_what_is_in_hand_is_renewed(bus, nats_server, connect):
    session = connect(nats_server, ack_wait=0.5)
    inbox = Inbox("orders.x")
    inbox.acknowledging = False
    inbox.attach(session)
    session.publisher.publish([bus.record("orders.x", b"slow")])
    inbox.wait(1)
    other = Inbox("orders.x").attach(connect(nats_server, ack_wait=0.5))
    renewed = inbox.in_hand.renewed_at
    wait_until(lambda: inbox.in_hand.renewed_at > renewed + 1.2)  # more than twice the time to acknowledge
    assert not other.got
    assert inbox.in_hand.duplicates == 0
    inbox.finish(inbox.got)


def test_full_lanes_stop_the_pulls(bus, session):
    inbox = Inbox("orders.x")
    inbox.has_room = False
    inbox.attach(session)
    bus.publish_all(session, "orders.x", 3000)
    confirmed(bus, 3000)
    inbox.wait(1)
    session.probe(2.0, bus.stop)
    count = len(inbox.got)
    assert count < 3000
    inbox.has_room = True
    session.resume(inbox.attachment)
    inbox.wait(3000)
    assert inbox.payloads == [b"%d" % number for number in range(3000)]


def test_broadcast_goes_on_over_sessions(bus, nats_server, connect):
    backend = NatsBackend(NatsConfig(servers=f"127.0.0.1:{nats_server.port}"))
    writer = connect(nats_server)
    bus.publish_all(writer, "news.x", 3)
    confirmed(bus, 3)
    first = backend.connect(bus.context())
    inbox = Inbox("news.>", group=None).attach(first)
    other = Inbox("news.>", group=None).attach(writer)
    first.close(5.0)  # before the first message
    bus.publish_all(writer, "news.x", 5, start=3)
    confirmed(bus, 8)
    second = backend.connect(bus.context())
    inbox.attach(second)
    assert inbox.wait(5) == other.wait(5) == [b"%d" % number for number in range(3, 8)]
    api = JetStreamApi(writer._connection)
    names = call(api, "CONSUMER.NAMES.news")["consumers"]
    mine = second._durables.name_of(inbox.attachment)
    assert mine in names
    call(api, f"CONSUMER.DELETE.news.{mine}")  # as after a long outage: it goes on from the position
    second.abandon()
    second.close(5.0)
    bus.publish_all(writer, "news.x", 4, start=8)
    confirmed(bus, 12)
    third = backend.connect(bus.context())
    inbox.attach(third)
    assert inbox.wait(9) == [b"%d" % number for number in range(3, 12)]
    third.detach(inbox.attachment, 2.0)
    wait_until(lambda: mine not in (call(api, "CONSUMER.NAMES.news")["consumers"] or []))
    third.close(5.0)


def test_wildcards_read_all_streams_and_those_to_come(bus, session, api):
    make_stream(api, "KV_bucket", "$KV.bucket.>")
    bus.publish_all(session, "red.x", 3)
    bus.publish_all(session, "blue.x", 3)
    bus.publish_all(session, "dlq.group.red.x", 3)
    confirmed(bus, 9)
    every, second_token = Inbox(">").attach(session), Inbox("*.x", group="other").attach(session)
    letters = Inbox("dlq.>").attach(session)
    every.wait(6)
    letters.wait(3)
    bus.publish_all(session, "green.x", 3)
    every.wait(9, timeout=5.0)
    second_token.wait(9, timeout=5.0)
    session.probe(2.0, bus.stop)
    assert len(every.got) == len(second_token.got) == 9
    assert {delivery.topic for delivery in every.got} == {"red.x", "blue.x", "green.x"}
    assert call(api, "STREAM.INFO.KV_bucket")["state"]["consumer_count"] == 0


def test_one_subscription_over_several_streams(bus, session, api):
    make_stream(api, "EU", "orders.eu.>")
    make_stream(api, "US", "orders.us.>")
    inbox = Inbox("orders.>").attach(session)
    bus.publish_all(session, "orders.eu.x", 50)
    bus.publish_all(session, "orders.us.x", 50)
    inbox.wait(100)
    assert len({delivery.identity for delivery in inbox.got}) == 100


def test_a_durable_with_other_settings_is_an_error_that_names_them(bus, session, api):
    bus.publish_all(session, "orders.x", 1)
    confirmed(bus, 1)
    config = {"durable_name": "group=shared=orders_dx", "ack_policy": "none", "max_deliver": 3}
    call(
        api,
        f"CONSUMER.DURABLE.CREATE.orders.{config['durable_name']}",
        {"stream_name": "orders", "config": config},
    )
    good = Inbox("orders.x", group="good")
    prepared = session.prepare([Inbox("orders.x").attachment, good.attachment], 5.0)
    ((_, error),) = prepared.refused.items()
    assert "ack_policy is 'none'" in str(error)
    assert "filter" in str(error)
    assert "max_deliver is 3" in str(error)
    good.session = session
    session.attach([good.attachment])
    good.wait(1)


def test_a_durable_with_a_taste_of_its_own_is_used(bus, nats_server, connect):
    Inbox("orders.x").attach(connect(nats_server, ack_wait=30.0))
    inbox = Inbox("orders.x").attach(session := connect(nats_server, ack_wait=10.0))
    assert session._feeds[inbox.attachment].ack_wait == 30.0


@pytest.mark.parametrize("what", ["CONSUMER.DELETE.orders.group=shared=orders_dx", "STREAM.DELETE.orders"])
def test_what_is_deleted_under_a_subscription_comes_back(bus, session, api, what):
    bus.publish_all(session, "orders.x", 5)
    inbox = Inbox("orders.x").attach(session)
    inbox.wait(5)
    session.probe(2.0, bus.stop)
    call(api, what)
    wait_until(lambda: bus.errors, 10.0)
    assert "is read again" in str(bus.errors[-1])
    bus.publish_all(session, "orders.x", 5, start=5)
    wait_until(lambda: b"9" in inbox.payloads, 10.0)
    assert set(inbox.payloads) == {b"%d" % number for number in range(10)}
    assert not bus.losses


def test_a_stream_made_anew_is_not_taken_for_the_old_one(bus, session, api):
    inbox = Inbox("orders.x").attach(session)
    bus.publish_all(session, "orders.x", 5)
    inbox.wait(5)
    call(api, "STREAM.DELETE.orders")
    bus.publish_all(session, "orders.x", 5, start=5)  # the same sequences as before
    assert inbox.wait(10, timeout=15.0) == [b"%d" % number for number in range(10)]


def test_drain_gives_back_what_was_on_its_way(bus, nats_server, connect):
    session = connect(nats_server)
    inbox = Inbox("orders.x")
    inbox.acknowledging = False
    inbox.attach(session)
    bus.publish_all(session, "orders.x", 200)
    inbox.wait(1)
    session.drain(2.0)
    inbox.finish(inbox.got)  # what was handed out may still be acknowledged
    session.probe(2.0, bus.stop)
    other = Inbox("orders.x").attach(connect(nats_server))
    wait_until(lambda: len(inbox.got) + len(other.got) == 200)
    assert set(inbox.payloads).isdisjoint(other.payloads)


def test_the_window_is_bounded(bus, session, nats_server, connect):
    inbox = Inbox("orders.x")
    inbox.acknowledging = False
    limited = connect(nats_server, consumer={"max_ack_pending": 100})
    inbox.attach(limited)
    bus.publish_all(session, "orders.x", 500)
    confirmed(bus, 500)
    inbox.wait(100)
    limited.probe(2.0, bus.stop)
    assert len(inbox.got) == 100
    inbox.acknowledging = True
    inbox.finish(list(inbox.got))
    inbox.wait(500)


# -- outages --------------------------------------------------------------------------------------


def resend(bus: FakeBus, old, new) -> None:
    old.abandon()
    new.publisher.publish(bus.unanswered)


def test_kill_in_the_middle_of_pipelined_publishing(bus, nats_server, connect):
    session = connect(nats_server)
    bus.publish_all(session, "orders.x", 3000)
    bus.publish_all(session, "orders.x", 17_000, start=3000)
    nats_server.kill()
    wait_until(lambda: bus.losses, 5.0)
    session.abandon()
    assert bus.unanswered
    nats_server.start()
    second = connect(nats_server)
    second.publisher.publish(bus.unanswered)
    confirmed(bus, 20_000, timeout=20.0)
    inbox = Inbox("orders.x").attach(second)
    assert inbox.wait(20_000, timeout=20.0) == [b"%d" % number for number in range(20_000)]
    info = call(JetStreamApi(second._connection), "STREAM.INFO.orders")
    assert info["state"]["messages"] == 20_000  # none twice


def test_identities_survive_a_restart(bus, nats_server, connect):
    session = connect(nats_server)
    inbox = Inbox("orders.x")
    inbox.acknowledging = False
    inbox.attach(session)
    bus.publish_all(session, "orders.x", 10)
    inbox.wait(10)
    nats_server.kill()
    wait_until(lambda: bus.losses, 5.0)
    nats_server.start()
    second = connect(nats_server)
    inbox.attach(second)
    session.abandon()
    inbox.finish(inbox.got)  # delivered by the first session, acknowledged by the second
    second.probe(2.0, bus.stop)
    api = JetStreamApi(second._connection)
    wait_until(lambda: call(api, "CONSUMER.INFO.orders.group=shared=orders_dx")["ack_floor"]["stream_seq"] == 10)
    assert len(inbox.got) == 10


def test_a_stale_backlog_is_discarded_at_attach(bus, session):
    inbox = Inbox("orders.x")
    inbox.acknowledging = False
    inbox.attach(session)
    lease = inbox.in_hand.lease
    assert not lease.ended
    bus.publish_all(session, "orders.x", 1)
    inbox.wait(1)
    session.detach(inbox.attachment, 2.0)
    inbox.attach(session)
    assert not lease.ended
    session.detach(inbox.attachment, 2.0)
    inbox.in_hand.renewed_at = time.monotonic() - 3600
    inbox.attach(session)
    assert lease.ended


def test_frozen_server_and_resend(bus, nats_server, connect):
    session = connect(nats_server, ping_interval=0.2)
    bus.publish_all(session, "orders.x", 100)
    confirmed(bus, 100)
    nats_server.freeze()
    bus.publish_all(session, "orders.x", 100, start=100)
    wait_until(lambda: bus.losses, 5.0)
    nats_server.thaw()
    second = connect(nats_server)
    resend(bus, session, second)
    confirmed(bus, 200)
    inbox = Inbox("orders.x").attach(second)
    assert inbox.wait(200) == [b"%d" % number for number in range(200)]


def test_a_cut_link_is_no_answer_twice(bus, nats_server, connect, tcp_proxy):
    """Answers that are lost on the wire: the resend is a duplicate, and confirmed."""
    proxy = tcp_proxy(*nats_server.address)
    session = connect(f"127.0.0.1:{proxy.port}")
    bus.publish_all(session, "orders.x", 1)
    confirmed(bus, 1)
    proxy.black_hole(to_server=False)
    bus.publish_all(session, "orders.x", 50, start=1)
    api = JetStreamApi(connect(nats_server)._connection)
    wait_until(lambda: call(api, "STREAM.INFO.orders")["state"]["messages"] == 51)
    proxy.cut()
    wait_until(lambda: bus.losses, 5.0)
    proxy.accept()
    second = connect(nats_server)
    resend(bus, session, second)
    confirmed(bus, 51)
    assert all(duplicate for _, _, _, duplicate in bus.was_confirmed[1:])


def test_unanswered_publishes_are_sent_again(bus, nats_server, connect, monkeypatch):
    """Without a loss of the link: messages that the server never stored."""
    monkeypatch.setattr("eventbus.backends.nats.jetstream.publisher.UNANSWERED", 0.3)
    session = connect(nats_server)
    bus.publish_all(session, "orders.x", 1)
    confirmed(bus, 1)
    transport = session._connection._transport
    send, swallowed = transport._send, []

    def lossy(data: bytes, flags: int) -> int:
        if b"HPUB" in bytes(data) and not swallowed:
            swallowed.append(data)
            return len(data)
        return send(data, flags)

    transport._send = lossy
    bus.publish_all(session, "orders.x", 200, start=1)
    confirmed(bus, 201)
    assert swallowed
    inbox = Inbox("orders.x").attach(session)
    got = inbox.wait(201)
    assert set(got) == {b"%d" % number for number in range(201)}
    assert len(got) == 201


def test_raw_foreign_messages_are_delivered(bus, session):
    bus.publish_all(session, "orders.x", 1)
    confirmed(bus, 1)
    inbox = Inbox("orders.>").attach(session)
    session._connection.request("orders.raw", json.dumps({"a": 1}).encode(), 2.0)
    inbox.wait(2)
    foreign = inbox.got[1]
    assert (foreign.id, foreign.key, dict(foreign.headers), foreign.json()) == (None, None, {}, {"a": 1})


def test_api_errors_are_typed(api):
    with pytest.raises(ApiError) as caught:
        call(api, "STREAM.INFO.nothing")
    assert caught.value.number == 10059
    with suppress(ApiError):
        call(api, "STREAM.DELETE.nothing")
