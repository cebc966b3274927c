"""The small parts: servers, names, answers, encoders, deliveries, the timer."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.backends.nats.core.deliveries import NatsDelivery, read_fields
from eventbus.backends.nats.core.encoding import CoreEncoder
from eventbus.backends.nats.core.feeds import CoreBatch
from eventbus.backends.nats.jetstream.conflicts import conflicts, within
from eventbus.backends.nats.jetstream.deliveries import JetStreamDelivery, sequence_of
from eventbus.backends.nats.jetstream.durables import MAX_NAME, Durables, durable_name, first_wanted
from eventbus.backends.nats.jetstream.encoding import JetStreamEncoder
from eventbus.backends.nats.jetstream.in_hand import NatsInHand
from eventbus.backends.nats.jetstream.pubacks import Verdict, parse_ack
from eventbus.backends.nats.jetstream.replies import answers
from eventbus.backends.nats.jetstream.streams import Stream, doubts
from eventbus.backends.nats.link.addresses import Server, ServerPool, parse_server
from eventbus.backends.nats.link.pynats import missing_names
from eventbus.backends.nats.link.timer import Timer
from eventbus.backends.nats.link.wire import Parser, header_block
from eventbus.config import NatsConfig
from eventbus.consuming.attachment import Attachment
from eventbus.consuming.subscriptions import Subscription
from eventbus.errors import ConfigError
from eventbus.fields import check_headers
from eventbus.message import Delivery
from eventbus.publishing.records import Batch, Extras, Record, key_of
from eventbus.testing import wait_until

SECOND = 1_000_000_000


# -- servers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("a", Server("a", 4222)),
        ("a:1", Server("a", 1)),
        ("10.0.0.1:4223", Server("10.0.0.1", 4223)),
        ("[::1]:4223", Server("::1", 4223)),
        ("::1", Server("::1", 4222)),
        ("nats://a:1", Server("a", 1)),
        ("tls://a", Server("a", 4222, tls=True)),
        ("nats://u%40x:p%3Aw@a", Server("a", 4222, user="u@x", password="p:w")),
        ("nats://to%2Fken@[::1]", Server("::1", 4222, token="to/ken")),
        ("u:p@a:1", Server("a", 1, user="u", password="p")),
        ("nats://u:p://w@a", Server("a", 4222, user="u", password="p://w")),
        ("TLS://A.Example:1", Server("a.example", 1, tls=True)),
    ],
)
def test_servers_are_read(text, server):
    assert parse_server(text) == server


@pytest.mark.parametrize(
    "text", ["", "http://a", "a:b", "a/b", "nats://", "a b", "a?x=1", "a:70000", "a:0", "a#x", "tls://u:p@"]
)
def test_malformed_servers(text):
    with pytest.raises(ConfigError):
        parse_server(text)


def test_passwords_are_in_no_text():
    server = parse_server("nats://u:secret@a")
    assert "secret" not in f"{server} {server!r}"
    with pytest.raises(ConfigError) as caught:
        parse_server("http://u:secret@a")
    assert "secret" not in str(caught.value)


def test_the_pool_learns_and_forgets_nothing_configured():
    pool = ServerPool(["a:1", "tls://b:2"])
    source = Server("b.example", 2, tls=True, user="u", password="p")
    pool.learn(["c:3", "a:1", "10.0.0.9:4", "bad:server:x", None], source)
    known = pool.in_order()
    assert {(server.host, server.port) for server in known[:2]} == {("a", 1), ("b", 2)}
    learned = {server.host: server for server in known[2:]}
    assert set(learned) == {"c", "10.0.0.9"}
    assert learned["10.0.0.9"] == Server("10.0.0.9", 4, True, "u", "p", None, "b.example")
    pool.learn("nonsense", source)
    pool.learn([f"h{number}:1" for number in range(500)], source)
    assert len(pool.in_order()) <= 2 + 64


def test_servers_that_leave_are_last():
    pool = ServerPool(["a:1", "b:2", "c:3"])
    pool.leave(Server("b", 2), True)
    assert all(pool.in_order()[-1].host == "b" for _ in range(20))
    pool.leave(Server("b", 2), False)
    assert len({pool.in_order()[0].host for _ in range(200)}) == 3


# -- names ----------------------------------------------------------------------------------------

names = st.text("ab_.-ds", min_size=1, max_size=64)
patterns = st.text("ab_.-*>dsg", min_size=1, max_size=180)


@given(names, patterns, names, patterns)
def test_durable_names_are_injective_and_legal(group, pattern, other_group, other_pattern):
    name = durable_name(group, pattern)
    assert len(name) <= MAX_NAME
    assert not set(name) & set("*>./\\ \t\r\n")
    same = (group, pattern) == (other_group, other_pattern)
    assert (name == durable_name(other_group, other_pattern)) is same


def test_durable_names_are_readable():
    assert durable_name("billing", "orders.*") == "billing=shared=orders_d_s"
    assert len(durable_name("g" * 64, "_" * 180)) == MAX_NAME


def test_conflicts_are_named():
    good = {"ack_policy": "explicit", "filter_subject": "a.*", "max_deliver": -1}
    assert conflicts(good, "a.*") == []
    assert conflicts({**good, "filter_subject": None, "filter_subjects": ["a.*"]}, "a.*") == []
    assert conflicts({"ack_policy": "explicit"}, ">") == []
    assert len(conflicts({"ack_policy": "all", "deliver_subject": "x", "max_deliver": 5}, "a")) == 4


def test_doubts_about_streams():
    assert doubts({"retention": "limits", "discard": "old", "duplicate_window": 600 * SECOND}) == []
    assert len(doubts({"max_age": 5, "retention": "interest", "duplicate_window": 1})) == 3
    assert doubts({"max_age": 5, "discard": "new", "duplicate_window": 600 * SECOND}) == []


def test_where_a_broadcast_goes_on():
    in_hand = NatsInHand()
    sub = Subscription("a", group=None, concurrency=1, start="latest")
    attachment = Attachment(SimpleNamespace(sub=sub, in_hand=in_hand), None)
    stream = Stream("a", "a@1", 100)
    assert first_wanted(attachment, stream) is None
    in_hand.positions["a@1"] = 50
    assert first_wanted(attachment, stream) == 51
    assert first_wanted(attachment, Stream("a", "a@1", 45)) == 46, "a backup was restored"
    held = Delivery("a", b"")
    held.identity = ("a@1", 40, b"0")
    in_hand.admit([held], in_hand.lease)
    assert first_wanted(attachment, stream) == 40
    assert first_wanted(attachment, Stream("b", "b@1", 3)) is None
    in_hand.has_begun = True
    assert first_wanted(attachment, Stream("a", "a@2", 3)) == 1, "made anew: all of it is new"
    assert first_wanted(attachment, Stream("b", "b@1", 3)) == 1, "found later: all of it is new"


@pytest.mark.parametrize(
    ("subject", "pattern", "is_within"),
    [
        ("orders.new", "orders.*", True),
        ("orders.*", "orders.*", True),
        ("orders.new", "orders.new", True),
        ("orders.eu.new", "orders.>", True),
        ("orders.*.new", "orders.>", True),
        ("orders.>", "orders.>", True),
        (">", ">", True),
        ("orders.>", "orders.*", False),
        ("orders.*", "orders.new", False),
        ("orders.eu.new", "orders.*", False),
        ("orders", "orders.>", False),
        (">", "orders.>", False),
        ("bills.new", "orders.*", False),
    ],
)
def test_what_a_pattern_takes_of_another(subject, pattern, is_within):
    assert within(subject, pattern) is is_within
    differences = conflicts({"ack_policy": "explicit", "filter_subject": subject}, pattern)
    assert bool(differences) is not is_within


def test_the_durables_name_may_be_given():
    def name(durable, topic="orders.*"):
        sub = Subscription(topic, group="billing", concurrency=1, start="earliest")
        attachment = Attachment(SimpleNamespace(sub=sub, in_hand=NatsInHand()), None)
        return Durables(None, NatsConfig(durable=durable), "0", True).name_of(attachment)

    assert name(None) == durable_name("billing", "orders.*")
    assert name("worker") == "worker"
    assert name("{group}-of-{topic}") == "billing-of-orders_d_s"
    assert len(name("{topic}-{topic}", "t" * 170)) <= MAX_NAME


# -- answers to publishes -------------------------------------------------------------------------


SUBJECT = Verdict.SUBJECT_FULL


@pytest.mark.parametrize(
    ("block", "payload", "verdict"),
    [
        (None, b'{"stream":"orders","seq":7}', Verdict.STORED),
        (None, b'{"stream":"orders", "seq":7,"duplicate": true}', Verdict.STORED),
        (None, b'{"stream":"orders","domain":"hub","seq":7}', Verdict.STORED),
        (b"NATS/1.0 503\r\n\r\n", b"", Verdict.NO_STREAM),
        (None, b'{"error":{"code":503,"err_code":10008,"description":"x"}}', Verdict.AGAIN),
        (None, b'{"error":{"code":500,"err_code":99999}}', Verdict.AGAIN),
        (None, b'{"error":{"code":503,"err_code":10077}}', Verdict.AGAIN),
        (
            None,
            b'{"error":{"code":503,"err_code":10077,"description":"maximum messages per subject exceeded"}}',
            SUBJECT,
        ),
        (None, b'{"error":{"code":400,"err_code":10002}}', Verdict.AGAIN),
        (None, b'{"error":{"code":429,"err_code":10167}}', Verdict.BUSY),
        (None, b'{"error":{"code":400,"err_code":99999}}', Verdict.DOUBTFUL),
        (None, b'{"error":{"code":400,"err_code":10054,"description":"too large"}}', Verdict.REFUSED),
        (None, b'{"error":{"code":400,"err_code":10071}}', Verdict.REFUSED),
        (None, b"hello", Verdict.NOISE),
        (None, b"{}", Verdict.NOISE),
        (None, b"[1]", Verdict.NOISE),
        (None, b"[" * 100_000, Verdict.NOISE),
        (None, b'{"stream":"orders"}', Verdict.NOISE),
    ],
)
def test_answers_are_judged(block, payload, verdict):
    assert parse_ack(block, payload).verdict is verdict


def test_what_is_stored_where():
    assert parse_ack(None, b'{"stream":"orders","seq":7,"duplicate":true}')[1:4] == ("orders", 7, True)
    assert parse_ack(None, b'{"stream":"o\\"x","seq":7}')[1:4] == ('o"x', 7, False)


@given(st.binary(max_size=80), st.none() | st.binary(max_size=40))
def test_judging_never_fails(payload, block):
    parse_ack(block, payload)


# -- encoders -------------------------------------------------------------------------------------

topics = st.sampled_from(["a", "a.b", "c"])
plain = st.builds(Record, st.integers(0, 10**13), topics, st.binary(max_size=12), st.none(), st.none())


class _Sink:
    """Takes frames of publishers as if they were messages."""

    cacheable = False

    def __init__(self) -> None:
        self.got: list[tuple] = []

    def adder(self, topic: str):
        return lambda *message: self.got.append(message)


def sent(encoder: CoreEncoder, records: list[Record], reply: bool, blocks: dict | None = None) -> list[tuple]:
    parts = encoder.encode(Batch(records)) if blocks is None else encoder.encode_mixed(records, blocks)
    data = b"".join(parts)[2:] + b"\r\n"
    sink = _Sink()
    # HPUB has no sid: one is put in, and the rest is what a HMSG looks like.
    lines = data.split(b"\r\nHPUB ")
    lines[0] = lines[0].removeprefix(b"HPUB ")
    for line in lines:
        topic, _, rest = line.partition(b" ")
        Parser({1: sink}, print).feed(b"HMSG %b 1 %b%b" % (topic, rest, b"" if rest is lines[-1] else b"\r\n"))
    assert all((message[1] is not None) is reply for message in sink.got)
    return sink.got


@given(st.lists(plain, min_size=1, max_size=30))
def test_frames_are_what_was_published(records):
    core = sent(CoreEncoder("origin"), records, False)
    stored = sent(JetStreamEncoder("origin", "_INBOX.x"), records, True)
    for record, message, other in zip(records, core, stored, strict=True):
        block = header_block(f"origin-{record.number:012d}", None, None)
        assert (message[0], message[2], message[3]) == (record.topic, block, record.payload)
        block = header_block(f"origin-{record.number:012d}/{record.topic}", None, None)
        assert other == (record.topic, f"_INBOX.x.{record.number:012d}".encode(), block, record.payload)


@given(plain, st.integers(1, 2500), st.lists(st.integers(0, 2500), max_size=3))
def test_frames_column_by_column_are_what_was_published(record, count, gaps):
    records = [record._replace(number=record.number + index) for index in range(count) if index not in gaps] or [record]
    for encoder, reply in ((CoreEncoder("origin"), False), (JetStreamEncoder("origin", "_INBOX.x"), True)):
        few = [records[start : start + 7] for start in range(0, len(records), 7)]
        assert sent(encoder, records, reply) == [frame for part in few for frame in sent(encoder, part, reply)]


@given(st.lists(plain, min_size=1, max_size=10, unique_by=lambda record: record.number), st.data())
def test_the_long_way_gives_the_same(records, data):
    keyed = data.draw(st.sampled_from(records))
    special = data.draw(st.sampled_from(records))
    blocks = {special.number: header_block("own", "key", (("H", b"v"),))}
    records = [record._replace(extras=Extras(key="käy")) if record is keyed else record for record in records]
    for encoder, reply in ((CoreEncoder("o"), False), (JetStreamEncoder("o", "_I"), True)):
        mixed = sent(encoder, records, reply, blocks)
        usual = sent(encoder, records, reply)
        for record, one, other in zip(records, mixed, usual, strict=True):
            assert (one[:2], one[3]) == (other[:2], other[3])
            id = encoder.stored_id(f"o-{record.number:012d}", record.topic)
            block = header_block(id, key_of(record), None)
            assert one[2] == blocks.get(record.number, block)


# -- deliveries -----------------------------------------------------------------------------------

SHORT = b"$JS.ACK.orders.durable.3.41.7.1700000000123456789.9"
LONG = b"$JS.ACK.hub.hash.orders.durable.3.41.7.1700000000123456789.9.random"


@pytest.mark.parametrize("token", [SHORT, LONG])
def test_deliveries_read_their_token(token):
    delivery = JetStreamDelivery.__new__(JetStreamDelivery)
    delivery.token, delivery._block = token, None
    assert sequence_of(token) == (41, b"1700000000123456789")
    assert delivery.attempt == 3
    assert delivery.timestamp.isoformat() == "2023-11-14T22:13:20.123456+00:00"


def test_deliveries_read_their_headers_once():
    delivery = NatsDelivery.__new__(NatsDelivery)
    delivery.topic, delivery.payload, delivery._arrived = "a", b"x", 0.0
    delivery._block = header_block("id", "key", (("A", b"1"),))
    assert (delivery.id, delivery.key, delivery.headers) == ("id", "key", {"A": "1"})
    assert delivery.headers is delivery.headers
    assert "id" in repr(delivery)
    assert read_fields(b"NATS/1.0\r\nNats-Stream: x\r\n\r\n") == (None, None, (), {}, None)


def test_deliveries_say_where_they_are_stored():
    for token in (SHORT, LONG):
        delivery = JetStreamDelivery.__new__(JetStreamDelivery)
        delivery.token, delivery._block = token, None
        assert (delivery.partition, delivery.offset) == ("orders", 41)
    core = NatsDelivery.__new__(NatsDelivery)
    assert (core.partition, core.offset) == (None, None)


@pytest.mark.parametrize(
    "token", [b"$JS.ACK.s.d.x.41.7.y.9", b"$JS.ACK.s.d.3.41.7.%d.9" % 10**30, b"$JS.ACK.s.d", b"", b"\xff.\xff.\xff"]
)
def test_an_odd_token_makes_no_attribute_raise(token):
    delivery = JetStreamDelivery.__new__(JetStreamDelivery)
    delivery.token, delivery._block = token, b"NATS/1.0\r\nEventbus-Key: \xff\r\nNats-Msg-Id: \xff\r\n\r\n"
    delivery.topic, delivery.payload = "t", b""
    assert delivery.timestamp is None
    assert delivery.attempt in (1, 3)
    assert (delivery.key, delivery.id, delivery.raw_key) == ("\\xff", "\\xff", b"\xff")
    assert pickle.loads(pickle.dumps(delivery)).raw_key == b"\xff"


def test_a_name_that_is_no_text_is_shown_and_never_published_in_another_form():
    fields = read_fields(b"NATS/1.0\r\nbad\xff: 1\r\nA: 2\r\n\r\n")
    assert fields.headers == {"bad\\xff": "1", "A": "2"}
    with pytest.raises(ValueError, match="header name"):
        check_headers(fields.raw_headers)
    with pytest.raises(ValueError):
        header_block("id", None, fields.raw_headers)


def test_a_key_is_found_before_and_after_the_other_headers_are_read():
    delivery = NatsDelivery.__new__(NatsDelivery)
    delivery._block = header_block("id", "key", (("A", b"1"), ("A", b"\xe9")))
    assert delivery.raw_key == b"key"
    assert delivery.raw_headers == (("A", b"1"), ("A", b"\xe9"))
    assert (delivery.raw_key, delivery.key, dict(delivery.headers)) == (b"key", "key", {"A": "1"})
    delivery._block = None
    assert (delivery.raw_key, delivery.key, delivery.raw_headers, delivery.headers) == (None, None, (), {})


def test_acknowledgements_are_joined():
    two = [SimpleNamespace(token=b"a"), SimpleNamespace(token=None), SimpleNamespace(token=b"b")]
    assert answers(two, b" 0\r\n\r\n") == b"PUB a 0\r\n\r\nPUB b 0\r\n\r\n"
    assert answers([], b" 0\r\n\r\n") == b""


# -- the timer ------------------------------------------------------------------------------------


def test_the_timer_runs_tasks_in_time_and_stops():
    timer, done = Timer(), []
    timer.after(0.03, lambda: done.append("late"))
    timer.after(0.01, lambda: done.append("early"))
    timer.every(0.005, lambda: done.append("tick"))
    thread = threading.Thread(target=timer.run)
    thread.start()
    timer.after(0.0, lambda: done.append("now"))
    wait_until(lambda: "late" in done and done.count("tick") >= 3)
    timer.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert [word for word in done if word in ("early", "late")] == ["early", "late"]
    assert "now" in done, "what is added while it runs counts as well"


# -- imports --------------------------------------------------------------------------------------


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_the_client_library_is_imported_when_it_is_needed():
    code = "import sys, eventbus.backends.nats, eventbus.backends.nats.link.wire; print('pynats2' in sys.modules)"
    assert run(code) == "False"


def test_no_stand_in_is_left_behind():
    code = """
import sys
sys.modules['pkg_resources'] = None  # as with a new setuptools
del sys.modules['pkg_resources']
import importlib.util as u
find = u.find_spec
u.find_spec = lambda name, *a: None if name == 'pkg_resources' else find(name, *a)
import eventbus.backends.nats.link.pynats as p
print('pkg_resources' in sys.modules, p.Dial.__mro__[1].__name__)
"""
    assert run(code) == "False NATSNoSubscribeClient"


def test_what_is_missing_from_pynats2_is_named():
    assert missing_names(SimpleNamespace())[:2] == ["INFO_RE", "PONG_RE"]
    assert "_socket" in missing_names(SimpleNamespace())


# -- batches --------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=3), max_size=6), st.slices(6), st.integers(-7, 6))
def test_a_batch_of_core_messages_is_like_a_list(payloads: list[bytes], part: slice, index: int) -> None:
    fields = [field for payload in payloads for field in ("t", payload, None)]
    batch = CoreBatch(fields, 7.0)
    assert [(one.topic, one.payload, one.key) for one in batch] == [("t", payload, None) for payload in payloads]
    assert len(batch) == len(payloads)
    if part.step in (None, 1):
        assert [one.payload for one in batch[part]] == payloads[part]
        assert all(one.timestamp.timestamp() == 7.0 for one in batch[part] if one.timestamp)
    else:
        with pytest.raises(ValueError, match="gaps"):
            batch[part]
    if -len(payloads) <= index < len(payloads):
        assert batch[index].payload == payloads[index]
    else:
        with pytest.raises(IndexError):
            batch[index]


def test_what_a_server_forgot_to_have_given_is_no_new_message_and_what_is_set_back_is():
    in_hand = NatsInHand()

    def given(sequence: int, times: int) -> JetStreamDelivery:
        delivery = JetStreamDelivery.__new__(JetStreamDelivery)
        delivery.topic, delivery.payload, delivery._block = "t", b"", None
        delivery.identity, delivery.token = ("s@1", sequence, b"0"), b"$JS.ACK.s.c.%d.%d.1.0.0" % (times, sequence)
        return delivery

    def fresh(*deliveries: JetStreamDelivery) -> int:
        return len(in_hand.admit(deliveries, in_hand.lease).fresh)

    in_hand.begin_era()
    before, after = given(1, 1), given(2, 1)
    assert fresh(before) == 1
    in_hand.begin_era()  # another session, of a server that was killed meanwhile
    assert fresh(after) == 1
    in_hand.finish([before, after])
    assert fresh(given(1, 1)) == 0, "it came in the session before"
    assert fresh(given(2, 2)) == 0, "its acknowledgement was lost"
    assert fresh(given(2, 1)) == 1, "somebody has set the consumer back"
