"""The ground of the conformance suite, and what it asks of publishing. See `eventbus.testing.conformance`."""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import wait as wait_futures
from datetime import datetime, timedelta, timezone
from secrets import token_hex
from typing import Any, ClassVar

import pytest
from attrs import evolve

from ..bus import EventBus
from ..config import EventBusConfig
from ..errors import PublishManyError, PublishRejectedError, UnsupportedError
from ..message import TOMBSTONE, Message, Receipt
from .wait import wait_until

BAD_TOPICS: list[Any] = [
    "",
    " ",
    "a b",
    "a\r\nb",
    "a\x00b",
    "a.*",
    ">",
    "ä",
    "a" * 250,
    None,
    7,
    [],
    b"a",
]
FOREIGN_TOPICS: list[Any] = ["a..b", ".a", "a.", "a" * 181]
"""Bad, but where the backend takes other programs' names."""
BAD_HEADERS: list[Any] = [
    *({name: "x"} for name in ["", "a b", "a:b", "a\r\nb", "a\x00", "ä", "n" * 129, 7, "Nats-Msg-Id", "eventbus-key"]),
    *({"name": value} for value in ["a\r\nb", "a\nb", "a\x00b", " a", "a ", 7, None, "\ud800"]),
    {"Twice": "1", "twice": "2"},
    ["name"],
    [("name",)],
    [("name", "a\r\nb")],
    [("Eventbus-Id", b"x")],
    {"a b": b"x"},
    "ab",
]
RAW: list[tuple[str, bytes | None, bytes]] = [
    ("null", None, b"\xff"),
    ("binary", b"\x00\x01\xff", (42).to_bytes(8, "big")),
    ("two-lines", b"a\r\n\tb", b"a\nb"),
    ("blanks", b" a\t", b" a "),
    ("a:name\n", b"", b"a\x00b"),
]
"""Of another program's messages: a header's name and value, and a key. NATS can carry none of them."""
BAD_PAYLOADS = [object(), {1, 2}, float("nan"), {"a": object()}, "\ud800"]


class Inbox:
    """A handler that keeps what it gets. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: list[Message] = []

    def __call__(self, message: Message) -> None:
        with self._lock:
            self._messages.append(message)

    @property
    def messages(self) -> list[Message]:
        """All so far, in order of handling."""
        with self._lock:
            return list(self._messages)

    @property
    def texts(self) -> list[str]:
        """Their payloads."""
        return [message.text() for message in self.messages]

    def wait(self, count: int, timeout: float = 10.0) -> list[Message]:
        """Wait for so many."""
        wait_until(lambda: len(self.messages) >= count, timeout, message=lambda: f"{count} messages; {self.messages}")
        return self.messages


class PublishingConformance:
    """Buses, topics and reasons to skip; and the four verbs of publishing."""

    skips: ClassVar[Mapping[str, str]] = {}
    """Test names with the reason why they do not apply."""

    def config(self) -> EventBusConfig:
        """Where the broker is. Called for each bus; all of them must reach the same broker."""
        raise NotImplementedError

    @pytest.fixture
    def served(self) -> Iterator[None]:
        """Around each test and all its buses; override it for a broker of its own for each test."""
        yield

    @pytest.fixture(autouse=True)
    def _around(self, request: pytest.FixtureRequest, served: None) -> Iterator[None]:
        reason = self.skips.get(request.node.originalname or request.node.name)
        if reason:
            pytest.skip(f"not applicable: {reason}")
        self.prefix = f"c{token_hex(6)}"
        self.topic = f"{self.prefix}.orders"
        self._buses: list[EventBus] = []
        self._gates: list[threading.Event] = []
        try:
            yield
        finally:
            for gate in self._gates:
                gate.set()
            for bus in self._buses:
                bus.close(5.0)

    # -- helpers ---------------------------------------------------------------------------------

    def make(self, **changes: Any) -> EventBus:
        """A bus that is not open; closed after the test."""
        bus = EventBus(evolve(self.config(), **changes))
        self._buses.append(bus)
        return bus

    def open(self, **changes: Any) -> EventBus:
        """A bus that is connected; closed after the test."""
        bus = self.make(**changes)
        bus.open()
        return bus

    def gate(self) -> threading.Event:
        """An event for handlers to wait on; set after the test at the latest."""
        gate = threading.Event()
        self._gates.append(gate)
        return gate

    def need(self, bus: EventBus, **features: str) -> None:
        """Skip unless the backend has these; the value says what it lacks else."""
        for name, reason in features.items():
            if not getattr(bus.features, name):
                pytest.skip(f"not applicable: {reason}")

    def ready(self, *buses: EventBus) -> None:
        """Let the broker take note of what was subscribed: a confirmed publish comes after it on the wire."""
        for bus in buses:
            bus.publish(f"{self.prefix}.ready", b"")

    def all_at_rest(self, bus: EventBus, handled: int) -> None:
        """Wait until so many were handled, and a further confirmed round trip has brought no more."""
        wait_until(lambda: bus.get_statistics().handled >= handled)
        self.ready(bus)
        assert bus.get_statistics().handled == handled

    def all_at_rest_once(self, bus: EventBus, handled: int) -> None:
        """Wait until so many were handled, and a round trip outside of all subscriptions has brought no more."""
        wait_until(lambda: bus.get_statistics().handled >= handled)
        bus.publish(f"other{self.prefix}.ready", b"")
        assert bus.get_statistics().handled == handled

    # -- publishing ------------------------------------------------------------------------------

    def test_a_publish_is_answered_with_a_receipt(self) -> None:
        bus = self.open()
        first, second = bus.publish(self.topic, "1"), bus.publish(self.topic, "2")
        assert first.topic == self.topic
        assert first.id != second.id
        assert first.confirmed is bus.features.confirms_publish
        assert not first.duplicate
        if bus.features.confirms_publish:
            assert first.partition is not None
            assert first.offset is not None
        statistics = bus.get_statistics()
        assert (statistics.published, statistics.confirmed, statistics.in_flight) == (2, 2, 0)

    def test_everything_about_a_message_arrives(self) -> None:
        bus, inbox = self.open(), Inbox()
        bus.subscribe(self.topic, inbox, group="g")
        headers = {"Trace-Id": "abc", "empty": "", "price": "10 €", "case": "KeptAsItIs"}
        before = datetime.now(timezone.utc) - timedelta(minutes=1)
        bus.publish(self.topic, b"\x00\xff", key="käy 1", headers=headers, id="my-id/1")
        (message,) = inbox.wait(1)
        assert (message.topic, message.payload, message.key) == (self.topic, b"\x00\xff", "käy 1")
        assert (dict(message.headers), message.id, message.attempt) == (headers, "my-id/1", 1)
        assert message.timestamp is not None
        assert before < message.timestamp < datetime.now(timezone.utc) + timedelta(minutes=1)

    def test_what_was_not_given_is_none_and_the_id_is_the_receipts(self) -> None:
        bus, inbox = self.open(), Inbox()
        bus.subscribe(self.topic, inbox, group="g")
        receipt = bus.publish(self.topic, "")
        (message,) = inbox.wait(1)
        assert (message.key, dict(message.headers), message.payload) == (None, {}, b"")
        assert message.id == receipt.id

    def test_payloads_are_bytes_text_or_json(self) -> None:
        bus, inbox = self.open(), Inbox()
        bus.subscribe(self.topic, inbox, group="g")
        big = "x" * 300_000
        for payload in (b"raw", "täxt", {"a": [1, None]}, 7, bytearray(b"array"), big):
            bus.publish(self.topic, payload, key="k")
        messages = inbox.wait(6)
        assert [message.payload for message in messages[:2]] == [b"raw", "täxt".encode()]
        assert [message.json() for message in messages[2:4]] == [{"a": [1, None]}, 7]
        assert [message.text() for message in messages[4:]] == ["array", big]

    def test_publish_async_answers_every_future(self) -> None:
        bus, inbox, threads = self.open(), Inbox(), set[str]()
        bus.subscribe(self.topic, inbox, group="g")
        futures = [bus.publish_async(self.topic, str(number), key="k") for number in range(300)]
        futures[-1].add_done_callback(lambda future: threads.add(threading.current_thread().name))
        assert not wait_futures(futures, 10.0).not_done
        assert len({future.result().id for future in futures}) == 300
        inbox.wait(300)
        assert inbox.texts == [str(number) for number in range(300)]
        wait_until(lambda: threads)

    def test_publish_many_gives_receipts_in_order(self) -> None:
        bus, inbox = self.open(), Inbox()
        bus.subscribe(self.topic, inbox, group="g")
        messages = [Message(self.topic, str(number), key="k", id=f"{self.prefix}-{number}") for number in range(200)]
        receipts = bus.publish_many(messages)
        assert [receipt.id for receipt in receipts] == [message.id for message in messages]
        inbox.wait(200)
        assert inbox.messages == messages
        assert bus.publish_many([]) == []

    def test_publish_nowait_and_flush(self) -> None:
        bus, inbox = self.open(), Inbox()
        bus.subscribe(self.topic, inbox, group="g")
        for number in range(500):
            bus.publish_nowait(self.topic, str(number).encode(), key="k" if number % 2 else None)
        report = bus.flush()
        assert (report.unanswered, report.failed) == (0, ())
        assert bus.get_statistics().confirmed == 500
        messages = inbox.wait(500)
        assert Counter(inbox.texts) == Counter(str(number) for number in range(500))
        assert [message.text() for message in messages if message.key] == [str(number) for number in range(1, 500, 2)]

    def test_one_id_is_stored_once(self) -> None:
        bus, inbox = self.open(), Inbox()
        self.need(bus, deduplicates="nothing is deduplicated")
        bus.subscribe(self.topic, inbox, group="g")
        first = bus.publish(self.topic, "a", id=f"{self.prefix}-same")
        again = bus.publish(self.topic, "a", id=f"{self.prefix}-same")
        assert (first.duplicate, again.duplicate) == (False, True)
        assert (again.partition, again.offset) == (first.partition, first.offset) or again.offset == first.offset
        bus.publish(self.topic, "b")
        assert [message.text() for message in inbox.wait(2)] == ["a", "b"]

    # -- as others write them --------------------------------------------------------------------

    def test_a_message_says_where_it_is_stored_as_its_receipt_does(self) -> None:
        bus, inbox = self.open(), Inbox()
        bus.subscribe(self.topic, inbox, group="g")
        receipt = bus.publish(self.topic, "x", key="k")
        (message,) = inbox.wait(1)
        assert (message.partition, message.offset) == (receipt.partition, receipt.offset)
        assert pickle.loads(pickle.dumps(message)) == message

    def test_headers_repeat_in_order_and_their_values_may_be_bytes(self) -> None:
        bus, inbox = self.open(), Inbox()
        bus.subscribe(self.topic, inbox, group="g")
        bus.publish(self.topic, "x", key="käy", headers=[("tag", "1"), ("Other", "ö"), ("tag", b"2"), ("empty", "")])
        bus.publish(self.topic, "y", key="käy".encode(), headers={"raw": b"caf\xe9"})
        first, second = inbox.wait(2)
        pairs = (("tag", b"1"), ("Other", "ö".encode()), ("tag", b"2"), ("empty", b""))
        assert (first.key, first.raw_key, first.raw_headers) == ("käy", "käy".encode(), pairs)
        assert (second.key, second.raw_key) == (first.key, first.raw_key)
        assert (second.headers["raw"], second.raw_headers) == ("caf\\xe9", (("raw", b"caf\xe9"),))
        with pytest.raises(TypeError):
            first.headers["mine"] = "other handlers see it too"  # type: ignore[index]

    def test_a_received_message_is_published_again_byte_for_byte(self) -> None:
        bus, inbox, copies = self.open(), Inbox(), Inbox()
        bus.subscribe(self.topic, inbox, group="g")
        bus.subscribe(f"{self.prefix}.copies", copies, group="g")
        pairs: list[tuple[str, str | bytes | None]] = [("tag", "1"), ("tag", "2"), ("empty", ""), ("raw", b"caf\xe9")]
        bus.publish(self.topic, b"\x00", key="k", headers=pairs)
        bus.publish(self.topic, b"", key="k")
        for name, value, key in RAW if bus.features.carries_bytes else ():
            bus.publish(self.topic, b"", key=key, headers=[(name, value), (name, value)])
        received = inbox.wait(2 + len(RAW) * bus.features.carries_bytes)
        ways = ["publish", "publish_many"] if not bus.features.deduplicates else ["publish"]
        for way in ways:
            for message in received:
                if way == "publish":
                    options: dict[str, Any] = {"key": message.raw_key, "headers": message.raw_headers}
                    bus.publish(f"{self.prefix}.copies", message.payload, **options)
                else:
                    message.topic = f"{self.prefix}.copies"
                    bus.publish_many([message])
        expected = Counter((message.payload, message.raw_key, message.raw_headers) for message in received * len(ways))
        got = copies.wait(len(received) * len(ways))
        assert Counter((message.payload, message.raw_key, message.raw_headers) for message in got) == expected

    def test_bytes_arrive_unchanged_or_are_refused(self) -> None:
        bus, inbox = self.open(), Inbox()
        bus.subscribe(self.topic, inbox, group="g")
        for name, value, key in RAW:
            options: dict[str, Any] = {"key": key, "headers": [(name, value)]}
            if bus.features.carries_bytes:
                bus.publish(self.topic, repr(options), **options)
            else:
                for refused in ({"key": key}, {"headers": options["headers"]}):
                    with pytest.raises(PublishRejectedError):
                        bus.publish(self.topic, "refused", **refused)
        if bus.features.carries_bytes:
            for message in inbox.wait(len(RAW)):
                assert message.text() == repr({"key": message.raw_key, "headers": list(message.raw_headers)})
        bus.publish(self.topic, "after")
        wait_until(lambda: inbox.texts.count("after"))
        assert "refused" not in inbox.texts

    def test_a_tombstone_arrives_as_one_or_is_refused(self) -> None:
        bus, inbox = self.open(), Inbox()
        bus.subscribe(self.topic, inbox, group="g")
        message = Message(self.topic, TOMBSTONE, key="k")
        if not bus.features.tombstones:
            for verb in (bus.publish, bus.publish_async, bus.publish_nowait):
                with pytest.raises(UnsupportedError, match="TOMBSTONE"):
                    verb(self.topic, TOMBSTONE, key="k")
            with pytest.raises(PublishManyError) as caught:
                bus.publish_many([message])
            assert "TOMBSTONE" in str(caught.value.results[0])
            assert bus.get_statistics().in_flight == 0
            return
        bus.publish(self.topic, TOMBSTONE, key="k")
        (received,) = inbox.wait(1)
        bus.publish_many([received, message])
        bus.publish(self.topic, received.payload, key=received.raw_key)
        bus.publish(self.topic, b"", key="k")
        assert [each.is_tombstone for each in inbox.wait(5)] == [True, True, True, True, False]
        assert [each.payload for each in inbox.messages] == [b""] * 5

    # -- bad input -------------------------------------------------------------------------------

    def test_bad_input_to_publish_is_refused_and_the_link_lives_on(self) -> None:
        bus, inbox = self.open(), Inbox()
        bus.subscribe(self.topic, inbox, group="g")
        good: dict[str, Any] = {"topic": self.topic, "payload": b"x"}
        topics = BAD_TOPICS if bus.features.foreign_names else BAD_TOPICS + FOREIGN_TOPICS
        bad: list[dict[str, Any]] = [{"topic": topic} for topic in topics]
        bad += [{"headers": headers} for headers in BAD_HEADERS]
        bad += [{"payload": payload} for payload in BAD_PAYLOADS]
        bad += [{"key": key} for key in ("a\nb", "a\x00", " a", 7, ["k"])]
        bad += [{"id": id} for id in ("", "a b", "a\n", "ä", "i" * 129, 7)]
        for change in bad:
            for verb in (bus.publish, bus.publish_async, bus.publish_nowait):
                with pytest.raises(PublishRejectedError) as caught:
                    verb(**{**good, **change})
                assert str(caught.value), change
        for verb in (bus.publish, bus.publish_async, bus.publish_nowait):
            with pytest.raises(TypeError):
                verb(self.topic, None)
        assert bus.get_statistics().in_flight == 0
        bus.publish(self.topic, "good")
        assert [message.text() for message in inbox.wait(1)] == ["good"]
        assert bus.get_connection_state().is_connected

    def test_one_bad_message_of_many_is_refused_alone(self) -> None:
        bus, inbox = self.open(), Inbox()
        bus.subscribe(self.topic, inbox, group="g")
        bad = [Message(self.topic, "2", headers={"a b": "c"}), Message("a b", "3")]
        with pytest.raises(PublishManyError) as caught:
            bus.publish_many([Message(self.topic, "1"), *bad, Message(self.topic, "4")])
        first, *refused, last = caught.value.results
        assert isinstance(first, Receipt) and isinstance(last, Receipt)
        assert all(isinstance(one, PublishRejectedError) for one in refused)
        assert "header name 'a b'" in str(refused[0])
        not_one: Any = "text"
        with pytest.raises(TypeError):
            bus.publish_many([Message(self.topic, "5"), not_one])
        assert sorted(message.text() for message in inbox.wait(2)) == ["1", "4"]
