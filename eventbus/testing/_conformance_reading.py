"""What the conformance suite asks of reading the past. See `eventbus.testing.conformance`."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from ..bus import EventBus
from ..errors import ClosedError, NotConnectedError, ReadError, SubscribeError, UnsupportedError
from ..message import Message
from ._conformance import BAD_TOPICS, Inbox, PublishingConformance
from .wait import wait_until

BEFORE_ALL = [
    datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=timezone.utc),
    datetime(1677, 1, 1, tzinfo=timezone.utc),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
]
BEHIND_ALL = [datetime(2300, 1, 1, tzinfo=timezone.utc), datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))]
"""Times that brokers take for others: -1 ms is where a Kafka topic ends, nanoseconds in 63 bits end in 2262."""


class ReadingConformance(PublishingConformance):
    """`EventBus.read`, and groups that begin at a time."""

    # -- reading the past ------------------------------------------------------------------------

    def test_where_nothing_is_stored_nothing_is_read(self) -> None:
        bus = self.open()
        if bus.features.readable:
            pytest.skip("not applicable: messages are stored")
        with pytest.raises(UnsupportedError):
            bus.read(self.topic)
        with pytest.raises(UnsupportedError, match="start"):
            bus.subscribe(self.topic, Inbox(), group="g", start=datetime.now(timezone.utc))

    def test_all_that_is_stored_is_read_each_partition_in_order(self) -> None:
        bus = self._filled(1500)
        messages = list(bus.read(self.topic))
        assert sorted(int(message.text()) for message in messages) == list(range(1500))
        assert in_order(messages)
        first = min(messages, key=lambda message: int(message.text()))
        assert (first.topic, first.key, first.attempt) == (self.topic, "k0", 1)
        assert dict(first.headers) == {"number": "0"}
        assert first.id
        assert first.offset is not None
        assert first.timestamp is not None
        assert abs(datetime.now(timezone.utc) - first.timestamp) < timedelta(minutes=1)

    def test_it_ends_where_the_topic_did_while_others_go_on_publishing(self) -> None:
        bus, stop = self._filled(200), threading.Event()

        def publish() -> None:
            number = 200
            while not stop.is_set():
                bus.publish_many([Message(self.topic, str(number + more), key=f"k{more}") for more in range(20)])
                number += 20

        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        try:
            wait_until(lambda: bus.get_statistics().confirmed >= 300)
            before = bus.get_statistics().confirmed
            excerpt = bus.read(self.topic)
            after = bus.get_statistics().published
            wait_until(lambda: bus.get_statistics().confirmed > after + 100)
            messages = list(excerpt)
        finally:
            stop.set()
            thread.join(10.0)
        assert before <= len(messages) <= after
        assert in_order(messages)

    def test_a_limit_and_an_early_end(self) -> None:
        bus = self._filled(50)
        assert len(list(bus.read(self.topic, limit=7))) == 7
        assert len(list(bus.read(self.topic, limit=50))) == 50
        assert len(list(bus.read(self.topic, limit=1000))) == 50
        assert list(bus.read(self.topic, limit=0)) == []
        for _ in bus.read(self.topic):
            break
        self._nothing_reads()
        with bus.read(self.topic) as excerpt:
            next(excerpt)
        excerpt.close()
        assert list(excerpt) == []
        self._nothing_reads()
        never_begun = bus.read(self.topic)
        del never_begun
        self._nothing_reads()

    def test_from_one_time_to_another(self) -> None:
        bus = self._filled(20)
        one = self._now()
        self._publish(bus, range(20, 40))
        other = self._now()
        self._publish(bus, range(40, 60))
        cases: list[tuple[Any, datetime | None, range]] = [
            (one, None, range(20, 60)),
            (one, other, range(20, 40)),
            (other.astimezone(timezone(timedelta(hours=5))), None, range(40, 60)),
            ("earliest", one, range(20)),
            (other, one, range(0)),
            (datetime.now(timezone.utc) + timedelta(hours=1), None, range(0)),
            ("earliest", datetime.now(timezone.utc) + timedelta(hours=1), range(60)),
            (datetime(1970, 1, 2, tzinfo=timezone.utc), None, range(60)),
            *((moment, None, range(60)) for moment in BEFORE_ALL),
            *(("earliest", moment, range(0)) for moment in BEFORE_ALL),
            *((moment, None, range(0)) for moment in BEHIND_ALL),
            *(("earliest", moment, range(60)) for moment in BEHIND_ALL),
        ]
        for start, until, expected in cases:
            assert numbers(bus.read(self.topic, start=start, until=until)) == list(expected), (start, until)
        middle = next(message for message in bus.read(self.topic) if message.text() == "20")
        assert middle.timestamp is not None
        assert 20 in numbers(bus.read(self.topic, start=middle.timestamp))
        assert 20 not in numbers(bus.read(self.topic, until=middle.timestamp))

    def test_from_one_offset_to_another(self) -> None:
        bus = self.open()
        self.need(bus, readable="nothing is stored")
        for number in range(30):
            bus.publish(self.topic, str(number), key="k")
        messages = list(bus.read(self.topic))
        offsets = [message.offset or 0 for message in messages]
        assert [message.text() for message in messages] == [str(number) for number in range(30)]
        assert numbers(bus.read(self.topic, start=offsets[10])) == list(range(10, 30))
        assert numbers(bus.read(self.topic, start=offsets[10], until=offsets[20])) == list(range(10, 20))
        assert numbers(bus.read(self.topic, until=offsets[20])) == list(range(20))
        assert numbers(bus.read(self.topic, start=0, until=offsets[-1] + 1000)) == list(range(30))
        assert numbers(bus.read(self.topic, start=offsets[-1] + 1000)) == []

    def test_nobody_s_place_is_moved(self) -> None:
        bus, gate, inbox = self._filled(20), self.gate(), Inbox()

        def handler(message: Message) -> None:
            if inbox.messages:
                assert gate.wait(20.0)
            inbox(message)

        bus.subscribe(self.topic, handler, group="g")
        inbox.wait(1)
        for _ in range(3):
            assert len(list(bus.read(self.topic))) == 20
        assert len(inbox.texts) == 1
        gate.set()
        assert sorted(int(message.text()) for message in inbox.wait(20)) == list(range(20))
        self.all_at_rest(bus, 20)
        assert bus.get_statistics().duplicates == 0

    def test_what_is_read_is_published_again_byte_for_byte(self) -> None:
        bus, other = self.open(), f"{self.prefix}.copies"
        self.need(bus, readable="nothing is stored")
        bus.publish(self.topic, b"\x00\xff", key="käy", headers=[("tag", "1"), ("tag", b"2"), ("raw", b"caf\xe9")])
        (message,) = bus.read(self.topic)
        bus.publish(other, message.payload, key=message.raw_key, headers=message.raw_headers)
        (copy,) = bus.read(other)
        assert (copy.payload, copy.raw_key, copy.raw_headers) == (message.payload, message.raw_key, message.raw_headers)

    def test_several_are_read_at_once_and_from_handlers(self) -> None:
        bus, counts, done = self._filled(300), list[int](), Inbox()

        def handler(message: Message) -> None:
            counts.append(len(list(bus.read(self.topic, limit=100))))
            done(message)

        bus.subscribe(f"{self.prefix}.asked", handler, group="g", concurrency=3)
        bus.publish_many([Message(f"{self.prefix}.asked", "x", key=f"k{number}") for number in range(6)])
        one, other = bus.read(self.topic), bus.read(self.topic)
        pairs = list(zip(numbers(one), numbers(other), strict=True))
        assert pairs == [(number, number) for number in range(300)]
        done.wait(6)
        assert counts == [100] * 6

    def test_a_reconnect_in_the_middle_leaves_nothing_out(self) -> None:
        bus = self._filled(3000)
        excerpt = bus.read(self.topic)
        messages = [next(excerpt)]
        bus.reconnect(timeout=10.0)
        messages += excerpt
        assert sorted(int(message.text()) for message in messages) == list(range(3000))
        assert in_order(messages)

    def test_a_bus_that_closes_ends_it(self) -> None:
        bus = self._filled(3000)
        excerpt = bus.read(self.topic)
        next(excerpt)
        report = bus.close()
        assert report.unfinished_threads == ()
        started = time.monotonic()
        with pytest.raises(ClosedError):
            list(excerpt)
        assert time.monotonic() - started < 1.0
        with pytest.raises(ClosedError):
            bus.read(self.topic)
        never_open = self.make()
        with pytest.raises(NotConnectedError, match="open"):
            never_open.read(self.topic)

    def test_a_topic_that_is_not_there_is_not_read(self) -> None:
        bus = self.open()
        self.need(bus, readable="nothing is stored")
        with pytest.raises(ReadError, match=f"{self.prefix}.nowhere"):
            bus.read(f"{self.prefix}.nowhere")
        with pytest.raises(ReadError):
            bus.read(f"{self.prefix}.nowhere")  # asking has not made it

    def test_bad_input_to_read_is_refused(self) -> None:
        bus = self._filled(1)
        ours = [topic for topic in BAD_TOPICS if topic != "a" * 250]
        bad: list[dict[str, Any]] = [{"topic": topic} for topic in [*ours, f"{self.prefix}.*", f"{self.prefix}.>"]]
        bad += [{"start": start} for start in ("latest", "", None, -1, 1.5, True, datetime(2026, 1, 1))]
        bad += [{"until": until} for until in ("latest", -1, 1.5, False, datetime(2026, 1, 1))]
        bad += [{"limit": limit} for limit in (-1, 1.5, "1", True)]
        bad += [{"partition": partition} for partition in (-1, "0", True)]
        for change in bad:
            with pytest.raises(ReadError) as caught:
                bus.read(**{"topic": self.topic, **change})
            assert str(caught.value), change
        with pytest.raises(ValueError, match="timeout"):
            bus.read(self.topic, timeout=-1)
        assert len(list(bus.read(self.topic))) == 1

    # -- groups that begin at a time -------------------------------------------------------------

    def test_a_new_group_begins_at_a_time_and_a_known_one_where_it_was(self) -> None:
        bus, fresh, known, pattern = self._filled(10), Inbox(), Inbox(), Inbox()
        first = bus.subscribe(self.topic, known, group="known")
        known.wait(10)
        assert bus.unsubscribe(first)
        moment = self._now()
        self._publish(bus, range(10, 20))
        later = self._now()
        self._publish(bus, range(20, 30))
        sub = bus.subscribe(self.topic, fresh, group="fresh", start=moment)
        assert sub.start == moment
        bus.subscribe(f"{self.prefix}.*", pattern, group="pattern", start=later)
        bus.subscribe(self.topic, known, group="known", start=later)
        self._publish(bus, range(30, 33))
        assert numbers(fresh.wait(23)) == list(range(10, 33))
        assert numbers(pattern.wait(13)) == list(range(20, 33))
        assert numbers(known.wait(33)) == list(range(33))
        self.all_at_rest_once(bus, 10 + 23 + 13 + 23)

    def test_a_group_that_began_at_a_time_goes_on_where_it_was(self) -> None:
        first, inbox, rest = self._filled(5), Inbox(), Inbox()
        moment = self._now()
        self._publish(first, range(5, 10))
        first.subscribe(self.topic, inbox, group="g", start=moment)
        inbox.wait(5)
        assert first.close().unhandled == 0
        second = self.open()
        self._publish(second, range(10, 12))
        second.subscribe(self.topic, rest, group="g", start=moment)
        assert numbers(rest.wait(2)) == [10, 11]
        self.all_at_rest_once(second, 2)

    def test_a_group_begins_at_a_time_that_no_broker_knows(self) -> None:
        bus, all_of_it, new = self._filled(3), Inbox(), Inbox()
        bus.subscribe(self.topic, all_of_it, group="before", start=BEFORE_ALL[0])
        bus.subscribe(self.topic, new, group="behind", start=BEHIND_ALL[0])
        assert numbers(all_of_it.wait(3)) == [0, 1, 2]
        self._publish(bus, range(3, 5))
        assert numbers(all_of_it.wait(5)) == list(range(5))
        assert not [text for text in new.texts if int(text) < 3]

    def test_a_time_without_a_zone_is_refused(self) -> None:
        bus = self.open()
        with pytest.raises(SubscribeError, match="time zone"):
            bus.subscribe(self.topic, Inbox(), group="g", start=datetime(2026, 1, 1))

    # -- helpers ---------------------------------------------------------------------------------

    def _filled(self, count: int) -> EventBus:
        """A bus whose topic holds the numbers from 0 on."""
        bus = self.open()
        self.need(bus, readable="nothing is stored")
        self._publish(bus, range(count))
        return bus

    def _publish(self, bus: EventBus, wanted: Sequence[int]) -> None:
        bus.publish_many(
            [Message(self.topic, str(one), key=f"k{one % 7}", headers={"number": str(one)}) for one in wanted]
        )

    def _now(self) -> datetime:
        """A moment that is later, and earlier, than what is published before and after it: brokers stamp in ms."""
        threading.Event().wait(0.01)
        now = datetime.now(timezone.utc)
        threading.Event().wait(0.01)
        return now

    def _nothing_reads(self) -> None:
        name = f".read-{self.topic}"
        wait_until(lambda: not [one.name for one in threading.enumerate() if one.name.endswith(name)], 5.0)


def in_order(messages: Sequence[Message]) -> bool:
    """Whether the offsets of each partition grow."""
    places = defaultdict[Any, list[int]](list)
    for message in messages:
        places[message.partition].append(message.offset or 0)
    return all(offsets == sorted(set(offsets)) for offsets in places.values())


def numbers(messages: Any) -> list[int]:
    """What `_publish` has put into them, sorted."""
    return sorted(int(message.text()) for message in messages)
