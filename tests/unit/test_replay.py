"""Dead letters are published again where they came from, counted once they are confirmed; and deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventbus import (
    EventBus,
    EventBusConfig,
    MemoryConfig,
    Message,
    NatsConfig,
    PublishNotSentError,
    PublishRejectedError,
    PurgeError,
    ReadError,
    Receipt,
    ReplayError,
    ReplayReport,
    RetryConfig,
    UnsupportedError,
)
from eventbus.consuming.replay import IN_FLIGHT, Replay, Wanted
from eventbus.copies import Copy
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages

NAME = "replay"
ONCE = RetryConfig(max_attempts=1)
Make = Callable[..., EventBus]


@pytest.fixture
def broker() -> Iterator[MemoryOutages]:
    made = MemoryOutages(NAME)
    yield made
    made.restore()
    made.forget()


@pytest.fixture
def bus(broker: MemoryOutages) -> Iterator[EventBus]:
    made = EventBus(EventBusConfig(backend=MemoryConfig(name=NAME), retry=ONCE))
    made.open()
    yield made
    made.close(5.0)


class Shop:
    """A handler that fails as long as it is broken."""

    def __init__(self) -> None:
        self.broken = True
        self.handled: list[Message] = []

    def __call__(self, message: Message) -> None:
        if self.broken:
            raise ValueError(f"no {message.text()}")
        self.handled.append(message)


def fail(bus: EventBus, count: int = 1) -> Shop:
    """So many dead letters of a handler that is broken."""
    shop = Shop()
    bus.subscribe("t", shop, group="g")
    bus.publish_many([Message("t", str(number), key=b"\xff", headers=[("a", b"\x00")]) for number in range(count)])
    wait_until(lambda: held(bus) == count)
    return shop


def held(bus: EventBus, topic: str = "dlq.g.t") -> int:
    return {one.topic: one.messages for one in bus.list_dead_letters()}.get(topic, 0)


def test_what_is_replayed_is_handled_as_it_was_published(bus: EventBus) -> None:
    shop = fail(bus)
    (letter,) = bus.read("dlq.g.t")
    shop.broken = False
    report = bus.replay_dead_letters("dlq.g.t")
    assert (report.replayed, report.duplicates, report.failed, report.unanswered) == (1, 0, 0, 0)
    wait_until(lambda: shop.handled)
    (message,) = shop.handled
    assert (message.id, message.payload, message.raw_key) == (letter.id, b"0", b"\xff")
    assert message.raw_headers == (("a", b"\x00"), ("Eventbus-Dead-Replays", b"1"))
    assert held(bus) == 1, "a replay takes nothing away"


def test_what_fails_again_is_another_dead_letter_that_counts_its_replays(bus: EventBus) -> None:
    shop = fail(bus)
    bus.replay_dead_letters("dlq.g.t")
    wait_until(lambda: held(bus) == 2)
    letters = list(bus.read("dlq.g.t"))
    assert [letter.headers.get("Eventbus-Dead-Replays") for letter in letters] == [None, "1"]
    assert letters[0].id == letters[1].id
    shop.broken = False
    report = bus.replay_dead_letters("dlq.g.t")
    assert (report.replayed, report.duplicates) == (2, 1), "the first one was replayed before"
    wait_until(lambda: shop.handled)
    assert shop.handled[0].headers["Eventbus-Dead-Replays"] == "2"


def test_a_limit_and_where_to_go_on(bus: EventBus) -> None:
    shop = fail(bus, 15)
    shop.broken = False
    start: Any = "earliest"
    for expected in (6, 6, 3, 0):
        report = bus.replay_dead_letters("dlq.g.t", start=start, limit=6)
        assert (report.replayed, report.duplicates) == (expected, 0)
        start = report.next
    wait_until(lambda: len(shop.handled) == 15)
    assert bus.replay_dead_letters("dlq.g.t", limit=0) == ReplayReport()


def test_only_what_the_filter_wants_and_no_foreign_message(bus: EventBus) -> None:
    fail(bus, 4)
    bus.publish("dlq.g.t", "not from here")
    report = bus.replay_dead_letters("dlq.g.t", filter=lambda message: message.text() in ("1", "3"))
    assert (report.replayed, report.skipped, report.foreign) == (2, 2, 1)


def test_what_its_origin_refuses_is_counted_and_the_others_go_on(bus: EventBus) -> None:
    shop = fail(bus)
    bus.publish("dlq.g.t", "lost", headers=[("Eventbus-Dead-Topic", b"no such name")])
    bus.publish("dlq.g.t", "found", headers=[("Eventbus-Dead-Topic", b"t")])
    shop.broken = False
    report = bus.replay_dead_letters("dlq.g.t")
    assert (report.replayed, report.failed) == (2, 1)
    (cause,) = report.causes
    assert isinstance(cause, PublishRejectedError)
    wait_until(lambda: len(shop.handled) == 2)


def test_progress_is_told_also_of_what_a_caller_interrupts(bus: EventBus) -> None:
    fail(bus, 5)
    told: list[ReplayReport] = []

    def interrupt(message: Message) -> bool:
        if message.text() == "3":
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        bus.replay_dead_letters("dlq.g.t", filter=interrupt, progress=told.append)
    assert (told[-1].replayed, told[-1].unanswered) == (3, 0), "what is on its way is waited for"
    assert bus.replay_dead_letters("dlq.g.t", start=told[-1].next).duplicates == 0


def test_wrong_calls_are_typed(bus: EventBus) -> None:
    with pytest.raises(ReadError, match="no such topic"):
        bus.replay_dead_letters("dlq.g.t")
    for options in ({"limit": -1}, {"start": -1}, {"start": {0: "x"}}, {"until": "now"}):
        with pytest.raises(ReadError):
            bus.replay_dead_letters("dlq.g.t", **options)
    with pytest.raises(UnsupportedError), EventBusOnCore() as core:
        core.replay_dead_letters("dlq.g.t")


class EventBusOnCore:
    """A bus over core NATS that is not opened: it refuses before it asks anybody."""

    def __enter__(self) -> EventBus:
        return EventBus(EventBusConfig(backend=NatsConfig(jetstream=False)))

    def __exit__(self, *raised: object) -> None:
        pass


def letter(offset: int, partition: int = 0) -> Message:
    headers = {"Eventbus-Dead-Topic": "t"}
    return Message("dlq.g.t", str(offset), id=f"i{offset}", headers=headers, partition=partition, offset=offset)


ALL = Wanted(filter=None, marks={}, limit=None)


def test_a_copy_that_is_not_stored_ends_it_with_where_to_go_on() -> None:
    asked: list[str] = []

    def publish(copy: Copy, answered: Any) -> Callable[[], bool]:
        asked.append(copy.stored_as)
        if copy.payload == b"2":
            answered(PublishNotSentError("no broker", copy.id))
        return bool

    with pytest.raises(ReplayError, match="no broker") as caught:
        Replay(publish, ALL, 0.05, None).run([letter(offset) for offset in range(6)])
    report = caught.value.report
    assert (report.replayed, report.unanswered, dict(report.next)) == (0, 2, {0: 0}), "0 and 1 have no answer"
    assert asked[:3] == ["i0/replay/1", "i1/replay/1", "i2/replay/1"]


def test_what_no_client_was_given_is_taken_back_at_an_early_end() -> None:
    given = 4

    def publish(copy: Copy, answered: Any) -> Callable[[], bool]:
        number = int(copy.payload)
        if number < 2:
            answered(Receipt(topic="t", id=copy.id, confirmed=True))
        return lambda: number >= given

    with pytest.raises(ReplayError, match="no answer within") as caught:
        Replay(publish, ALL, 0.05, None).run([letter(offset) for offset in range(6)])
    report = caught.value.report
    assert (report.replayed, report.unanswered, dict(report.next)) == (2, 2, {0: 2})


@pytest.mark.parametrize("interrupted", [False, True])
def test_nothing_is_published_later_that_was_told_as_not_replayed(
    bus: EventBus, broker: MemoryOutages, interrupted: bool
) -> None:
    shop = fail(bus, 5)
    shop.broken = False
    told: list[ReplayReport] = []

    def outage(message: Message) -> bool:
        if message.text() == "2":
            wait_until(lambda: bus.get_statistics().in_flight == 0)
            broker.kill()
            wait_until(lambda: not bus.get_connection_state().is_connected)
        if message.text() == "4" and interrupted:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt if interrupted else ReplayError):
        bus.replay_dead_letters("dlq.g.t", filter=outage, timeout=0.2, progress=told.append)
    report = told[-1]
    broker.restore()
    assert bus.wait_connected(5.0)
    bus.publish("t", "probe")
    wait_until(lambda: any(message.text() == "probe" for message in shop.handled))
    assert len(shop.handled) - 1 == report.replayed == 2
    assert report.unanswered == 0
    rest = bus.replay_dead_letters("dlq.g.t", start=report.next)
    assert (rest.replayed, rest.duplicates) == (3, 0)


def test_it_has_no_more_in_flight_than_it_may() -> None:
    asked: list[str] = []

    def publish(copy: Copy, answered: Any) -> Callable[[], bool]:
        asked.append(copy.id)
        return bool

    with pytest.raises(ReplayError, match="no answer within"):
        Replay(publish, ALL, 0.05, None).run(letter(offset) for offset in range(5000))
    assert len(asked) == IN_FLIGHT


def test_a_bus_without_room_is_asked_again() -> None:
    full = [True, True]

    def publish(copy: Copy, answered: Any) -> Callable[[], bool]:
        if full:
            full.pop()
            raise PublishNotSentError("no room", copy.id)
        answered(PublishRejectedError("no", copy.id))
        return bool

    assert Replay(publish, ALL, 5.0, None).run([letter(7)]).failed == 1
    with pytest.raises(ReplayError, match="no room") as caught:
        Replay(lambda *asked: full.extend([True] * 9) or publish(*asked), ALL, 0.1, None).run([letter(7)])
    assert (caught.value.report.unanswered, dict(caught.value.report.next)) == (0, {0: 7})


def test_a_purge_deletes_what_is_there_and_counts_it(bus: EventBus) -> None:
    shop = fail(bus, 3)
    assert bus.purge_dead_letters("dlq.g.t") == 3
    assert (held(bus), list(bus.read("dlq.g.t"))) == (0, [])
    assert bus.purge_dead_letters("dlq.g.t") == 0
    bus.publish("t", "again")
    wait_until(lambda: held(bus) == 1)
    shop.broken = False
    assert bus.replay_dead_letters("dlq.g.t").replayed == 1


def test_a_purge_touches_no_topic_of_messages(bus: EventBus, broker: MemoryOutages) -> None:
    bus.publish("orders", "x")
    with pytest.raises(PurgeError, match="force"):
        bus.purge_dead_letters("orders")
    assert len(list(bus.read("orders"))) == 1
    assert bus.purge_dead_letters("orders", force=True) == 1
    bus.publish("graves", "x", headers=[("Eventbus-Dead-Topic", b"t")])
    assert bus.purge_dead_letters("graves") == 1
    bus.publish("dlq.g.t", "x")
    broker.refuse_topic("dlq.g.t")
    with pytest.raises((PurgeError, ReadError), match="permission"):
        bus.purge_dead_letters("dlq.g.t")


def test_topics_of_dead_letters_are_listed_with_their_times(bus: EventBus) -> None:
    assert bus.list_dead_letters() == []
    fail(bus, 3)
    (found,) = bus.list_dead_letters()
    times = [message.timestamp for message in bus.read("dlq.g.t")]
    assert (found.topic, found.messages, found.oldest, found.newest) == ("dlq.g.t", 3, times[0], times[-1])
