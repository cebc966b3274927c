"""The end of a message that fails: tried again, put off, or a dead letter that the broker has confirmed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventbus import (
    BROADCAST,
    ConfigError,
    ErrorEvent,
    EventBus,
    EventBusConfig,
    GuardConfig,
    GuardError,
    HandlerTimeoutError,
    MemoryConfig,
    Message,
    PublishNotSentError,
    PublishRejectedError,
    Reject,
    RetryConfig,
    RetryLater,
    SubscribeError,
)
from eventbus.copies import Copy
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages

NAME = "delivery"
Make = Callable[..., EventBus]
SOON = RetryConfig(initial_backoff=0.001, max_backoff=0.01)


@pytest.fixture
def broker() -> Iterator[MemoryOutages]:
    made = MemoryOutages(NAME)
    yield made
    made.restore()
    made.forget()


@pytest.fixture
def make(broker: MemoryOutages) -> Iterator[Make]:
    buses: list[EventBus] = []

    def made(**settings: Any) -> EventBus:
        settings.setdefault("retry", SOON)
        bus = EventBus(EventBusConfig(backend=MemoryConfig(name=NAME), **settings))
        bus.open()
        buses.append(bus)
        return bus

    yield made
    for bus in buses:
        bus.close(5.0)


class Shop:
    """A handler that fails on what it is told to, and remembers what it was given."""

    def __init__(self, bad: str = "bad", error: BaseException | None = None) -> None:
        self.bad = bad
        self.error = error or ValueError("not in stock")
        self.seen: list[tuple[str, int]] = []

    def __call__(self, message: Message) -> None:
        self.seen.append((message.text(), message.attempt))
        if message.text() == self.bad:
            raise self.error

    def attempts(self, text: str) -> list[int]:
        return [attempt for seen, attempt in self.seen if seen == text]


def letters(bus: EventBus, topic: str = "dlq.g.t") -> list[Message]:
    found: list[Message] = []
    bus.subscribe(topic, found.append, group="undertaker")
    return found


def test_after_the_last_attempt_it_is_a_dead_letter_with_all_that_it_was(make: Make) -> None:
    bus, shop = make(), Shop()
    bus.subscribe("t", shop, group="g")
    receipt = bus.publish("t", "bad", key=b"\xff", headers=[("a", "1"), ("a", b"\x00"), ("b", None)])
    (found,) = wait_for(letters(bus))
    assert shop.attempts("bad") == [1, 2, 3, 4, 5]
    assert (found.payload, found.raw_key, found.id) == (b"bad", b"\xff", receipt.id)
    assert found.raw_headers[:3] == (("a", b"1"), ("a", b"\x00"), ("b", None))
    reasons = dict(found.headers)
    assert reasons["Eventbus-Dead-Error"] == "builtins.ValueError"
    assert reasons["Eventbus-Dead-Reason"] == "not in stock"
    assert reasons["Eventbus-Dead-Attempts"] == "5"
    assert (reasons["Eventbus-Dead-Topic"], reasons["Eventbus-Dead-Group"]) == ("t", "g")
    assert reasons["Eventbus-Dead-Offset"] == str(receipt.offset)
    assert reasons["Eventbus-Dead-Partition"] == str(receipt.partition)
    statistics = bus.get_statistics()
    assert (statistics.failed, statistics.retried, statistics.dead_lettered) == (5, 4, 1)


def wait_for(found: list[Message], count: int = 1) -> list[Message]:
    wait_until(lambda: len(found) >= count, message=lambda: f"{found}")
    return found


def test_its_key_waits_and_no_other(make: Make) -> None:
    bus, shop = make(retry=RetryConfig(initial_backoff=0.2)), Shop()
    bus.subscribe("t", shop, group="g")
    bus.publish("t", "bad", key="k")
    bus.publish("t", "behind", key="k")
    bus.publish("t", "other", key="l")
    bus.publish("t", "none")
    wait_until(lambda: shop.attempts("other") and shop.attempts("none"))
    assert not shop.attempts("behind")
    wait_until(lambda: shop.attempts("behind"), 15.0)
    assert len(shop.attempts("bad")) == 5
    assert bus.get_statistics().dead_lettered == 1


def test_reject_is_a_dead_letter_at_once(make: Make) -> None:
    bus, shop = make(), Shop(error=Reject("no such customer"))
    bus.subscribe("t", shop, group="g")
    bus.publish("t", "bad")
    (found,) = wait_for(letters(bus))
    assert shop.attempts("bad") == [1]
    assert found.headers["Eventbus-Dead-Reason"] == "no such customer"
    assert (bus.get_statistics().failed, bus.get_statistics().retried) == (1, 0)


def test_what_is_given_up_on_is_tried_once(make: Make) -> None:
    bus, shop = make(), Shop(error=KeyError("x"))
    sub = bus.subscribe("t", shop, group="g", retry=RetryConfig(initial_backoff=0.0, give_up_on=LookupError))
    bus.publish("t", "bad")
    wait_for(letters(bus))
    assert shop.attempts("bad") == [1]
    bus.unsubscribe(sub)
    other = Shop()
    bus.subscribe("u", other, group="g", retry=RetryConfig(retry_on="ConnectionError, builtins:TimeoutError"))
    bus.publish("u", "bad")
    wait_for(letters(bus, "dlq.g.u"))
    assert other.attempts("bad") == [1]


@pytest.mark.parametrize("error", [SystemExit(3), MemoryError(), RecursionError("deep"), KeyboardInterrupt()])
def test_what_would_end_a_thread_is_one_failure(make: Make, error: BaseException) -> None:
    bus, shop = make(), Shop(error=error)
    bus.subscribe("t", shop, group="g", retry=RetryConfig(initial_backoff=0.0, max_attempts=2))
    bus.publish("t", "bad")
    wait_for(letters(bus))
    assert shop.attempts("bad") == [1, 2]
    bus.publish("t", "good")
    wait_until(lambda: shop.attempts("good"))


@pytest.mark.parametrize("options", [{"group": "g", "dead_letter": None}, {"group": BROADCAST}])
def test_without_dead_letters_it_is_tried_without_end_and_rejected_ones_are_dropped(
    make: Make, options: dict[str, Any]
) -> None:
    bus, shop = make(), Shop()
    bus.subscribe("t", shop, **options)
    bus.publish("t", "bad")
    wait_until(lambda: len(shop.attempts("bad")) > 20)
    assert bus.get_statistics().dead_lettered == 0
    shop.error = Reject("no")
    wait_until(lambda: bus.get_statistics().dropped == 1)
    wait_until(lambda: bus._consumers.unhandled == 0)
    assert not bus.get_statistics().handled


def test_it_is_acknowledged_only_when_the_dead_letter_is_confirmed(make: Make, broker: MemoryOutages) -> None:
    bus, shop = make(), Shop()
    errors: list[ErrorEvent] = []
    bus.register_error_callback(errors.append)
    stored, store = threading.Event(), bus._copier.publish_copy
    letterbox = bus._consumers
    calls: list[str] = []

    def refuse(copy: Copy, answered: Any) -> None:
        calls.append(copy.topic)
        if not stored.is_set():
            raise PublishNotSentError("no room there", "x")
        store(copy, answered)

    letterbox._letterbox = refuse
    sub = bus.subscribe("t", shop, group="g")
    bus.publish("t", "bad", key="k")
    bus.publish("t", "behind", key="k")
    wait_until(lambda: len(calls) > 3)
    assert len(shop.attempts("bad")) == 5, "its handler is not asked again"
    assert not shop.attempts("behind")
    status = sub.status()
    assert (status.in_hand, str(status.error)) == (2, "no room there")
    assert [event.source for event in errors if "no room" in str(event.error)] == ["subscription"]
    stored.set()
    wait_until(lambda: shop.attempts("behind"))
    wait_until(lambda: sub.status().in_hand == 0)
    assert sub.status().error is None
    assert len(wait_for(letters(bus))) == 1


def test_retry_later_is_no_failure(make: Make) -> None:
    bus, seen = make(), list[int]()

    def handler(message: Message) -> None:
        seen.append(message.attempt)
        if len(seen) < 8:
            raise RetryLater(0.01, "the other side is closed")

    bus.subscribe("t", handler, group="g", retry=RetryConfig(max_attempts=2, initial_backoff=0.0))
    bus.publish("t", "x")
    wait_until(lambda: bus.get_statistics().handled == 1)
    assert seen == sorted(seen)
    assert len(seen) == 8
    assert bus.get_statistics().dead_lettered == 0
    with pytest.raises(ValueError, match="seconds"):
        RetryLater(-1.0)


def test_a_broken_deploy_does_not_drain_the_topic(make: Make) -> None:
    bus, broken = make(guard=GuardConfig(initial_pause=0.05, max_pause=0.2)), threading.Event()
    errors: list[ErrorEvent] = []
    bus.register_error_callback(errors.append)
    broken.set()
    handled: list[str] = []

    def handler(message: Message) -> None:
        if broken.is_set():
            raise ValueError("the database has no such table")
        handled.append(message.text())

    sub = bus.subscribe("t", handler, group="g", concurrency=4)
    for number in range(200):
        bus.publish_nowait("t", str(number), key=str(number))
    wait_until(lambda: isinstance(sub.status().error, GuardError))
    assert any("none leaves any more" in line for line in bus.get_health_status().not_served)
    wait_until(lambda: [event for event in errors if isinstance(event.error, GuardError)])
    failures = bus.get_statistics().retried
    wait_until(lambda: bus.get_statistics().retried > failures + 3)  # it is tried now and then
    assert bus.get_statistics().dead_lettered < 20
    broken.clear()
    wait_until(lambda: len(handled) + bus.get_statistics().dead_lettered == 200)
    wait_until(lambda: sub.status().in_hand == 0)
    assert (sub.status().error, bus.get_health_status().not_served) == (None, ())
    assert len(set(handled)) == len(handled)


def test_a_little_poison_in_a_backlog_is_no_broken_deploy_though_it_leaves_behind_all_the_rest(make: Make) -> None:
    bus, handled = make(retry=RetryConfig(max_attempts=2, initial_backoff=0.5)), list[str]()
    bad, good = 120, 12_000

    def handler(message: Message) -> None:
        if message.payload == b"bad":
            raise ValueError("bad")
        handled.append(message.text())

    bus.publish_many([Message("orders", "bad" if number % 101 == 0 else "good") for number in range(bad * 101)])
    sub = bus.subscribe("orders", handler, group="g")
    wait_until(lambda: bus.get_statistics().dead_lettered == bad, 30.0)
    assert len(handled) == good and sub.status().not_served == ""


def test_a_handler_that_runs_for_too_long_is_told_with_where_it_stands(make: Make) -> None:
    bus, gate, errors = make(handler_timeout=60.0), threading.Event(), list[ErrorEvent]()
    bus.register_error_callback(errors.append)

    def stuck_in_here(message: Message) -> None:
        gate.wait(20.0)

    bus.subscribe("t", stuck_in_here, group="g", handler_timeout=0.05)
    bus.publish("t", "x")
    wait_until(lambda: errors)
    (event,) = errors
    assert isinstance(event.error, HandlerTimeoutError)
    assert "stuck_in_here" in str(event.error)
    assert event.message is not None
    assert event.message.text() == "x"
    bus.publish("t", "y")
    gate.set()
    wait_until(lambda: bus.get_statistics().handled == 2)
    assert len(errors) == 1


def test_dead_letter_topics_are_legal_and_short(make: Make) -> None:
    bus, shop = make(), Shop()
    group, topic = "g" * 64, "t" * 180
    bus.subscribe(topic, shop, group=group)
    seen: list[Message] = []
    bus.subscribe("dlq.>", seen.append, group="undertaker")
    bus.publish(topic, "bad")
    wait_for(seen)
    assert len(seen[0].topic) <= 180
    assert seen[0].headers["Eventbus-Dead-Topic"] == topic


def test_wrong_arguments_are_refused_at_the_door(make: Make) -> None:
    bus = make()
    for options, text in [
        ({"retry": 3}, "RetryConfig"),
        ({"dead_letter": "no such name"}, "bad topic"),
        ({"dead_letter": 3}, "bad topic"),
        ({"group": BROADCAST, "dead_letter": "d"}, "broadcast"),
        ({"group": "g", "dead_letter": "t"}, "come back"),
        ({"handler_timeout": 0}, "handler_timeout"),
    ]:
        with pytest.raises(SubscribeError, match=text):
            bus.subscribe("t", print, **{"group": "g", **options})
    for settings in ({"retry_on": (3,)}, {"give_up_on": "no.such:Thing"}, {"initial_backoff": 9.0}):
        with pytest.raises(ConfigError):
            RetryConfig(**settings)  # type: ignore[arg-type]


def test_retries_can_be_set_from_a_mapping() -> None:
    bus = EventBus({"url": "memory://", "retry": {"max_attempts": "3", "retry_on": "ValueError,TypeError"}})
    assert bus.config.retry == RetryConfig(max_attempts=3, retry_on=(ValueError, TypeError))


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class Bare(RetryLater):
    def __init__(self) -> None:
        pass


Evil = type("Evil\r\nNats-Msg-Id: x", (Exception,), {})
Long = type("L" * 100_000, (Exception,), {})


@pytest.mark.parametrize("error", [Mute(), Evil("x\r\ny"), Long("l" * 100_000), Reject("a\x00\r\nb")])
def test_no_error_is_too_odd_for_a_dead_letter_and_the_others_go_on(make: Make, error: BaseException) -> None:
    bus, shop = make(retry=RetryConfig(max_attempts=1)), Shop(error=error)
    bus.subscribe("t", shop, group="g")
    for text in ("bad", *map(str, range(10))):
        bus.publish("t", text)
    (found,) = wait_for(letters(bus))
    assert len(found.headers["Eventbus-Dead-Error"]) <= 500
    assert found.headers["Eventbus-Dead-Reason"]
    wait_until(lambda: bus.get_statistics().handled >= 10)


def test_a_retry_later_that_says_nothing_waits_a_second_and_ends_no_lane(make: Make) -> None:
    bus, shop = make(), Shop(error=Bare())
    bus.subscribe("t", shop, group="g")
    bus.publish("t", "bad")
    bus.publish("t", "good")
    wait_until(lambda: shop.attempts("good"))
    wait_until(lambda: len(shop.attempts("bad")) == 2)


def test_messages_of_two_topics_with_one_id_are_two_dead_letters(make: Make) -> None:
    bus, shop = make(), Shop(error=Reject("no"))
    found = letters(bus, "failed")
    for topic in ("orders", "invoices"):
        bus.subscribe(topic, shop, group="g", dead_letter="failed")
        bus.publish(topic, "bad", id="42")
    assert {one.headers["Eventbus-Dead-Topic"] for one in wait_for(found, 2)} == {"orders", "invoices"}
    assert {one.id for one in found} == {"42"}


def test_what_a_broker_does_not_carry_is_left_out_and_named(make: Make) -> None:
    bus, shop = make(), Shop(error=Reject("no"))
    store, refused = bus._copier.publish_copy, list[Any]()

    def choosy(copy: Copy, answered: Any) -> Any:
        if any(name == "odd" for name, _ in copy.headers) or copy.key == b"\xff":
            refused.append(copy.key)
            raise PublishRejectedError("a header that nobody carries", "x")
        return store(copy, answered)

    bus._consumers._letterbox = choosy
    bus.subscribe("t", shop, group="g")
    bus.publish("t", "bad", key=b"\xff", headers={"odd": "1"})
    (found,) = wait_for(letters(bus))
    assert len(refused) == 1
    assert (found.key, found.text()) == (None, "bad")
    assert "odd" in found.headers["Eventbus-Dead-Left-Out"]


def test_an_error_is_shown_as_long_as_its_letter_waits_whatever_the_others_do(make: Make) -> None:
    bus, shop, errors = make(), Shop(error=Reject("no")), list[ErrorEvent]()
    shop.bad = "bad"
    bus.register_error_callback(errors.append)
    store = bus._copier.publish_copy

    def choosy(copy: Copy, answered: Any) -> Any:
        if copy.payload == b"bad 1":
            raise PublishRejectedError("too large", "x")
        return store(copy, answered)

    def handler(message: Message) -> None:
        raise Reject("no")

    bus._consumers._letterbox = choosy
    sub = bus.subscribe("t", handler, group="g")
    for number in range(10):
        bus.publish("t", f"bad {number}")
    wait_until(lambda: bus.get_statistics().dead_lettered == 9)
    assert str(sub.status().error) == "too large"
    assert len([one for one in errors if str(one.error) == "too large"]) == 1
