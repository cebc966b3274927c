"""Middleware: one chain around every handler call and one around every publish."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from eventbus import (
    ErrorEvent,
    EventBus,
    EventBusConfig,
    HealthCheckConfig,
    MemoryConfig,
    Message,
    PublishManyError,
    PublishNotSentError,
    PublishRejectedError,
    PublishUnknownError,
    Receipt,
    Reject,
    RetryConfig,
    UnsupportedError,
    current_subscription,
)
from eventbus.consuming.lanes import Lanes
from eventbus.middleware import Links, Middleware, Wrapped, around
from eventbus.publishing.chained import ChainedPublisher
from eventbus.publishing.publisher import Publisher
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages

RETRY = RetryConfig(max_attempts=5, initial_backoff=0.001)
NAME = "middleware-unit"
Next = Callable[[Message], Any]


@pytest.fixture
def broker() -> Iterator[MemoryOutages]:
    made = MemoryOutages(NAME)
    yield made
    made.restore()
    made.forget()


@pytest.fixture
def bus(broker: MemoryOutages) -> Iterator[EventBus]:
    health = HealthCheckConfig(interval=0.05, timeout=0.1, retry_interval=0.02)
    made = EventBus(EventBusConfig(backend=MemoryConfig(name=NAME), health_check=health, group="g", retry=RETRY))
    yield made
    broker.restore()
    made.close(5.0)


class Noted:
    """Middleware that notes its calls, for either chain."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def __call__(self, message: Message, call_next: Next) -> Any:
        self.log.append(f"{self.name}>")
        try:
            return call_next(message)
        finally:
            self.log.append(f"<{self.name}")


def lanes_of(bus: EventBus) -> list[Lanes]:
    return [one._lanes for one in bus._consumers.subscriptions.consumptions()]


def test_the_first_used_is_outermost_and_one_used_twice_is_there_once(bus: EventBus) -> None:
    log: list[str] = []
    first, second = Noted("first", log), Noted("second", log)
    bus.use(consume=first)
    bus.use(consume=second)
    bus.use(consume=first)
    bus.subscribe("t", lambda message: log.append("handler"))
    bus.open()
    bus.publish("t", b"x")
    wait_until(lambda: bus.get_statistics().handled == 1)
    assert log == ["first>", "second>", "handler", "<second", "<first"]
    log.clear()
    for one in (first, second):
        bus.use(publish=one)
    bus.publish("else", b"x")
    assert log == ["first>", "second>", "<second", "<first"]


def test_without_middleware_the_lane_and_the_quick_path_are_as_they_were(bus: EventBus) -> None:
    def handler(message: Message) -> None: ...

    bus.subscribe("t", handler)
    (lane,) = lanes_of(bus)[0]._lanes
    assert lane._handler.now() is handler
    assert type(bus._wiring.verbs) is Publisher
    assert bus._quick[0] is bus._pending.inbox
    bus.use(consume=lambda message, call_next: call_next(message))
    assert lane._handler.now() is not handler
    assert lane._handler.now() is lane._handler.now(), "composed once for each change"
    assert bus._quick[0] is bus._pending.inbox, "consuming is not publishing's affair"


@pytest.mark.parametrize("verb", ["publish", "publish_async", "publish_nowait"])
def test_every_verb_of_one_message_passes_the_chain_with_a_future(bus: EventBus, verb: str) -> None:
    seen: list[Future[Receipt]] = []

    def middleware(message: Message, call_next: Next) -> Future[Receipt]:
        assert message.id
        tenant = {**message.headers, "tenant": "acme"}
        seen.append(call_next(message.replace(headers=tenant, payload=message.payload + b"!")))
        return seen[-1]

    got: list[Message] = []
    bus.subscribe("t", got.append)
    bus.open()
    bus.use(publish=middleware)
    result = getattr(bus, verb)("t", b"x", key="k", headers={"a": "b"}, id="one")
    wait_until(lambda: got)
    assert (got[0].payload, dict(got[0].headers), got[0].key, got[0].id) == (
        b"x!",
        {"a": "b", "tenant": "acme"},
        "k",
        "one",
    )
    receipt = seen[0].result(5.0)
    assert receipt.id == "one"
    expected = {"publish": receipt, "publish_async": seen[0], "publish_nowait": None}[verb]
    assert result is expected


def test_publish_many_passes_each_message_alone_and_pipelined(bus: EventBus) -> None:
    log: list[str] = []

    def middleware(message: Message, call_next: Next) -> Future[Receipt]:
        future: Future[Receipt] = call_next(message)
        log.append(message.text())
        return future

    bus.use(publish=middleware)
    bus.open()
    receipts = bus.publish_many([Message("t", str(number), id=f"id-{number}") for number in range(3)])
    assert [receipt.id for receipt in receipts] == ["id-0", "id-1", "id-2"]
    assert log == ["0", "1", "2"]
    assert bus.publish_many([]) == []
    with pytest.raises(TypeError, match="takes Message objects"):
        bus.publish_many([Message("t", b"x"), "no"])  # type: ignore[list-item]
    assert log == ["0", "1", "2"], "nothing passes when one of them is no message"


def test_what_middleware_refuses_is_not_accepted(bus: EventBus) -> None:
    def refuse(message: Message, call_next: Next) -> Any:
        if message.text() == "bad":
            raise PublishRejectedError("no", message.id or "")
        if message.text() == "bug":
            raise ZeroDivisionError
        return call_next(message)

    bus.use(publish=refuse)
    bus.open()
    for verb in (bus.publish, bus.publish_async, bus.publish_nowait):
        with pytest.raises(PublishRejectedError) as caught:
            verb("t", b"bad", id="it")
        assert caught.value.id == "it"
        with pytest.raises(ZeroDivisionError):
            verb("t", b"bug")
    assert bus.get_statistics().published == 0
    with pytest.raises(PublishManyError) as many:
        bus.publish_many([Message("t", text, id=text) for text in ("one", "bad", "bug", "two")])
    one, bad, bug, two = many.value.results
    assert isinstance(one, Receipt)
    assert isinstance(two, Receipt)
    assert type(bad) is PublishRejectedError
    assert type(bug) is PublishNotSentError
    assert isinstance(bug.__cause__, ZeroDivisionError)
    assert bug.id == "bug"
    assert bus.get_statistics().published == 2


def test_what_fails_behind_call_next_may_be_stored(bus: EventBus) -> None:
    def fail(message: Message, call_next: Next) -> Any:
        call_next(message)
        raise ZeroDivisionError

    bus.use(publish=fail)
    bus.open()
    with pytest.raises(ZeroDivisionError):
        bus.publish("t", b"x")
    with pytest.raises(PublishManyError) as many:
        bus.publish_many([Message("t", b"x")])
    assert isinstance(many.value.results[0], PublishUnknownError)


@pytest.mark.parametrize("returned", [None, Receipt(topic="t", id="x", confirmed=True)])
def test_what_returns_no_future_is_told_so(bus: EventBus, returned: object) -> None:
    bus.use(publish=lambda message, call_next: returned)  # type: ignore[arg-type, return-value]
    bus.open()
    with pytest.raises(TypeError, match="not the Future"):
        bus.publish("t", b"x")
    with pytest.raises(TypeError, match="not the Future"):
        bus.publish_nowait("t", b"x")


def test_what_the_door_refuses_never_reaches_middleware(bus: EventBus) -> None:
    bus.use(publish=lambda message, call_next: pytest.fail("called"))
    bus.open()
    with pytest.raises(PublishRejectedError, match="bad topic"):
        bus.publish("no topic", b"x")
    with pytest.raises(UnsupportedError):
        bus.publish("t", b"x", partition=1)
    with pytest.raises(TypeError):
        bus.publish("t", None)
    with pytest.raises(PublishManyError) as many:
        bus.publish_many([Message("no topic", b"x")])
    assert isinstance(many.value.results[0], PublishRejectedError)


def test_what_middleware_has_spoilt_is_refused_by_the_same_rules(bus: EventBus) -> None:
    bus.use(publish=lambda message, call_next: call_next(message.replace(topic="no topic")))
    bus.open()
    with pytest.raises(PublishRejectedError, match="bad topic"):
        bus.publish("t", b"x")
    other = EventBus(f"memory://{NAME}")
    other.use(publish=lambda message, call_next: call_next("text"))  # type: ignore[arg-type]
    with other, pytest.raises(TypeError, match="takes a Message"):
        other.publish("t", b"x")


def test_a_publish_passed_on_twice_has_one_id(bus: EventBus) -> None:
    def twice(message: Message, call_next: Next) -> Any:
        call_next(message)
        return call_next(message)

    got: list[str | None] = []
    bus.subscribe("t", lambda message: got.append(message.id))
    bus.use(publish=twice)
    bus.open()
    receipt = bus.publish("t", b"x")
    assert receipt.duplicate
    wait_until(lambda: got)
    assert got == [receipt.id]


def test_a_publish_that_is_not_answered_in_time_says_what_became_of_it(bus: EventBus, broker: MemoryOutages) -> None:
    futures: list[Future[Receipt]] = []

    def keep(message: Message, call_next: Next) -> Future[Receipt]:
        futures.append(call_next(message))
        return futures[-1]

    bus.use(publish=keep)
    bus.open()
    broker.freeze()
    with pytest.raises(PublishUnknownError) as caught:
        bus.publish("t", b"x", id="late", timeout=0.05)
    assert caught.value.id == "late"
    assert not futures[0].done()
    with pytest.raises(PublishManyError) as many:
        bus.publish_many([Message("t", b"y")], timeout=0.05)
    assert isinstance(many.value.results[0], PublishUnknownError)
    broker.restore()
    assert futures[0].result(5.0).id == "late", "whoever observes it hears the answer all the same"
    broker.refuse()
    wait_until(lambda: not bus.get_connection_state().is_connected)
    with pytest.raises(PublishNotSentError):
        bus.publish("t", b"x", timeout=0.05)
    assert isinstance(futures[-1].exception(5.0), PublishNotSentError)


@pytest.mark.parametrize("limit", [TimeoutError("time limit"), RuntimeError("soft limit"), KeyboardInterrupt()])
@pytest.mark.parametrize("verb", ["publish", "publish_many", "publish_many without room"])
def test_a_time_limit_out_of_a_signal_handler_ends_a_publish_behind_middleware(
    bus: EventBus, broker: MemoryOutages, verb: str, limit: BaseException
) -> None:
    def end(*_: object) -> None:
        raise limit

    bus.use(publish=lambda message, call_next: call_next(message))
    bus.open()
    broker.freeze()
    if "room" in verb:
        bus.publish_nowait("t", b"x" * bus.config.max_in_flight_bytes)
    before = signal.signal(signal.SIGUSR1, end)
    timer = threading.Timer(0.2, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    began = time.monotonic()
    try:
        timer.start()
        with pytest.raises(type(limit)) as caught:
            if verb == "publish":
                bus.publish("t", "x", timeout=5.0)
            else:
                bus.publish_many([Message("t", "x"), Message("t", "y")], timeout=5.0)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert caught.value is limit
    assert time.monotonic() - began < 3.0


def test_a_middleware_may_answer_with_a_future_of_its_own_or_take_the_message_back(bus: EventBus) -> None:
    own: Future[Receipt] = Future()

    def middleware(message: Message, call_next: Next) -> Future[Receipt]:
        return own

    bus.use(publish=middleware)
    bus.open()
    with pytest.raises(PublishNotSentError, match="middleware kept it"):
        bus.publish("t", b"x", timeout=0.01)
    own.set_result(Receipt(topic="t", id="x", confirmed=False))
    assert bus.publish("t", b"x") is own.result()
    own = Future()
    own.cancel()
    with pytest.raises(PublishNotSentError, match="took it back"):
        bus.publish("t", b"x")
    assert bus.get_statistics().published == 0


def test_what_publish_nowait_cannot_do_is_reported_and_flushed(bus: EventBus, broker: MemoryOutages) -> None:
    events: list[ErrorEvent] = []
    bus.use(publish=lambda message, call_next: call_next(message))
    bus.register_error_callback(events.append)
    bus.open()
    broker.freeze()
    bus.publish_nowait("t", b"x")
    wait_until(lambda: bus._pending.ledger.records)
    bus._pending.failed(next(iter(bus._pending.ledger.records.values())), PublishRejectedError("too large", "x"))
    broker.restore()
    report = bus.flush(5.0)
    assert [str(error) for error in report.failed] == ["too large"]
    wait_until(lambda: events)
    assert (events[0].source, events[0].topic) == ("publish", "t")


def test_a_received_message_passes_byte_for_byte(bus: EventBus) -> None:
    bus.use(publish=lambda message, call_next: call_next(message.replace(headers=[*message.raw_headers, ("n", b"1")])))
    got: list[Message] = []
    bus.subscribe("a", lambda message: bus.publish_many([message.replace(topic="b")]))
    bus.subscribe("b", got.append)
    bus.open()
    bus.publish("a", b"x", key=b"\xff", headers=[("h", b"\xfe"), ("h", b"2")])
    wait_until(lambda: got)
    assert got[0].raw_key == b"\xff"
    assert got[0].raw_headers == (("h", b"\xfe"), ("h", b"2"), ("n", b"1"), ("n", b"1"))


def test_a_failure_in_middleware_is_the_handlers(bus: EventBus) -> None:
    calls: list[str] = []
    events: list[ErrorEvent] = []

    def fail_once(message: Message, call_next: Next) -> Any:
        calls.append("middleware")
        if len(calls) == 1:
            raise ZeroDivisionError
        return call_next(message)

    bus.use(consume=fail_once)
    bus.register_error_callback(events.append)
    bus.subscribe("t", lambda message: calls.append("handler"))
    bus.open()
    bus.publish("t", b"x")
    wait_until(lambda: bus.get_statistics().handled == 1)
    assert calls == ["middleware", "middleware", "handler"]
    wait_until(lambda: events)
    assert isinstance(events[0].error, ZeroDivisionError)
    assert bus.get_statistics().retried == 1


def test_a_handlers_failure_passes_through_middleware_which_may_make_it_a_success(bus: EventBus) -> None:
    seen: list[str] = []

    def forgive(message: Message, call_next: Next) -> None:
        try:
            call_next(message)
        except ZeroDivisionError:
            seen.append("forgiven")

    bus.use(consume=forgive)
    bus.subscribe("t", lambda message: 1 / 0)
    bus.open()
    bus.publish("t", b"x")
    wait_until(lambda: bus.get_statistics().handled == 1)
    assert seen == ["forgiven"]
    assert bus.get_statistics().retried == 0


def test_the_handler_gets_what_is_passed_on_and_the_original_is_acknowledged(bus: EventBus) -> None:
    got: list[Message] = []
    bus.use(consume=lambda message, call_next: call_next(message.replace(payload=message.payload[::-1])))
    bus.subscribe("t", got.append)
    bus.open()
    receipt = bus.publish("t", b"abc")
    wait_until(lambda: bus.get_statistics().handled == 1)
    assert (got[0].payload, got[0].id, got[0].offset) == (b"cba", receipt.id, receipt.offset)
    assert bus.close().unhandled == 0


def test_middleware_that_does_not_call_the_handler_has_handled_the_message(bus: EventBus) -> None:
    bus.use(consume=lambda message, call_next: None)
    bus.subscribe("t", lambda message: pytest.fail("called"))
    bus.open()
    bus.publish("t", b"x")
    wait_until(lambda: bus.get_statistics().handled == 1)


async def _never_run() -> None: ...


def test_what_nobody_awaits_is_a_failure_behind_middleware_too(bus: EventBus) -> None:
    bus.use(consume=lambda message, call_next: call_next(message) and None)
    events: list[ErrorEvent] = []
    bus.register_error_callback(events.append)
    bus.subscribe("t", lambda message: _never_run())
    bus.open()
    bus.publish("t", b"x")
    wait_until(lambda: events)
    assert "nobody awaits" in str(events[0].error)
    assert bus.get_statistics().handled == 0


async def _coroutine(message: Message, call_next: Next) -> None: ...


@pytest.mark.parametrize(
    "bad", [{}, {"consume": _coroutine}, {"publish": _coroutine}, {"consume": 3}, {"consume": print, "publish": "x"}]
)
def test_what_cannot_be_middleware_is_refused_at_the_door(bus: EventBus, bad: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        bus.use(**bad)
    assert bus._middleware.links == Links()


def test_middleware_used_while_a_batch_is_handled_is_there_for_the_next_message_of_it(bus: EventBus) -> None:
    gate, began, seen = threading.Event(), threading.Event(), list[str]()

    def handler(message: Message) -> None:
        began.set()
        assert gate.wait(5.0)

    def note(message: Message, call_next: Next) -> Any:
        seen.append(message.text())
        return call_next(message)

    sub = bus.subscribe("t", handler)
    bus.open()
    sub.pause()
    bus.publish_many([Message("t", str(number), key="k") for number in range(5)])
    wait_until(lambda: sub.status().in_hand == 5)
    sub.resume()
    assert began.wait(5.0)
    bus.use(consume=note)
    gate.set()
    wait_until(lambda: bus.get_statistics().handled == 5)
    assert seen == ["1", "2", "3", "4"]


def test_middleware_knows_whose_handler_it_is_around(bus: EventBus) -> None:
    seen: list[Any] = []

    def note(message: Message, call_next: Next) -> Any:
        seen.append(current_subscription())
        return call_next(message)

    bus.use(consume=note)
    sub = bus.subscribe("t.*", lambda message: None, group="mine")
    bus.open()
    bus.publish("t.a", b"x")
    wait_until(lambda: seen)
    assert seen == [sub]
    assert current_subscription() is None


def test_threads_that_use_at_once_lose_none() -> None:
    middleware, barrier = Middleware(), threading.Barrier(8)
    made = [Noted(str(number), []) for number in range(80)]

    def use(part: list[Any]) -> None:
        barrier.wait(5.0)
        for one in part:
            middleware.use(one, None)

    threads = [threading.Thread(target=use, args=(made[index::8],)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert set(middleware.links.consume) == set(made)
    assert len(middleware.links.consume) == 80


def test_a_chain_wraps_whatever_takes_one_argument() -> None:
    def handler(messages: list[int]) -> int:
        return sum(messages)

    middleware = Middleware()
    wrapped = Wrapped(handler, middleware)
    assert wrapped.now() is handler
    middleware.use(lambda messages, call_next: call_next([*messages, 10]), None)  # type: ignore[misc]
    assert wrapped.now()([1, 2]) == 13
    assert around(handler, Links()) is handler


def test_what_the_library_publishes_itself_does_not_pass_the_chain(bus: EventBus) -> None:
    passed, dead = list[str](), list[Message]()

    def note(message: Message, call_next: Next) -> Any:
        passed.append(message.topic)
        return call_next(message)

    def reject(message: Message) -> None:
        raise Reject("never")

    bus.use(publish=note)
    assert isinstance(bus._wiring.verbs, ChainedPublisher)
    bus.subscribe("t", reject)
    bus.subscribe("dlq.g.t", dead.append, group="dead")
    bus.open()
    bus.publish("t", b"x")
    wait_until(lambda: dead)
    assert passed == ["t"]


def test_publishing_from_a_handler_while_the_bus_closes_passes_the_chain(bus: EventBus) -> None:
    began, seen = threading.Event(), list[str]()

    def note(message: Message, call_next: Next) -> Any:
        seen.append(message.topic)
        return call_next(message)

    def handler(message: Message) -> None:
        began.set()
        wait_until(lambda: bus._life.gate.is_shut)
        bus.publish("late", b"x")

    bus.use(publish=note)
    bus.subscribe("t", handler)
    bus.open()
    bus.publish("t", b"x")
    assert began.wait(5.0)
    assert bus.close().unhandled == 0
    assert seen == ["t", "late"]
