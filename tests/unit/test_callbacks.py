"""User callbacks: in order, each on its own, bounded, and never in anybody's way."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import pytest

from eventbus import ErrorEvent, EventBus
from eventbus.recovery import callbacks as module
from eventbus.recovery.callbacks import Callbacks, Tally
from eventbus.testing import wait_until


def event(number: int = 0) -> ErrorEvent:
    return ErrorEvent(source="health", error=ValueError(number))


def test_callbacks_run_in_order_on_their_own_thread() -> None:
    made, seen = Callbacks("test"), list[tuple[str, object]]()
    made.register("error", lambda one: seen.append((threading.current_thread().name, one.error.args[0])))
    for number in range(50):
        made.report(event(number))
    assert made.close(5.0) == ()
    assert seen == [("eventbus.test.callbacks", number) for number in range(50)]


def test_registered_twice_is_once_and_gone_is_gone() -> None:
    made, seen = Callbacks("test"), list[object]()
    for _ in range(2):
        made.register("error", seen.append)
    made.report(event())
    made.unregister("error", print)
    made.close(5.0)
    assert len(seen) == 1
    other = Callbacks("test")
    other.register("error", seen.append)
    other.unregister("error", seen.append)
    other.report(event())
    assert other.close(0.0) == ()
    assert len(seen) == 1


def test_without_callbacks_there_is_no_thread() -> None:
    before = threading.active_count()
    Callbacks("test").report(event())
    assert threading.active_count() == before


def test_an_error_in_one_reaches_the_error_callbacks_and_spares_the_others() -> None:
    made, seen, reconnects = Callbacks("test"), list[ErrorEvent](), list[object]()

    def broken(one: object) -> None:
        raise RuntimeError("broken")

    def leaves(one: object) -> None:
        raise SystemExit

    for callback in (broken, leaves, reconnects.append):
        made.register("reconnect", callback)
    made.register("error", broken)
    made.register("error", seen.append)
    made.reconnected("event")  # type: ignore[arg-type]
    made.reconnected("event")  # type: ignore[arg-type]
    wait_until(lambda: len(seen) == 4)
    assert made.close(5.0) == ()
    assert reconnects == ["event", "event"]
    assert [(one.source, type(one.error)) for one in seen] == [("callback", RuntimeError), ("callback", SystemExit)] * 2


def test_a_broken_error_callback_does_not_feed_itself() -> None:
    made, calls = Callbacks("test"), list[int]()

    def broken(one: object) -> None:
        calls.append(1)
        raise RuntimeError("broken")

    made.register("error", broken)
    made.report(event())
    made.close(5.0)
    assert calls == [1]


def test_only_so_many_errors_wait_behind_a_slow_callback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "QUEUED_ERRORS", 3)
    made, entered, release, seen = Callbacks("test"), threading.Event(), threading.Event(), list[int]()

    def slow(one: ErrorEvent) -> None:
        seen.append(one.error.args[0])
        entered.set()
        release.wait(20.0)

    made.register("error", slow)
    made.report(event(0))
    assert entered.wait(5.0)
    for number in range(1, 10):
        made.report(event(number))
    release.set()
    with caplog.at_level(logging.ERROR, "eventbus"):
        assert made.close(5.0) == ()
    assert seen == [0, 1, 2, 3]
    assert "6 error events were dropped" in caplog.text


def test_a_callback_that_hangs_is_named_at_close() -> None:
    made, entered, release = Callbacks("test"), threading.Event(), threading.Event()
    made.register("error", lambda one: (entered.set(), release.wait(20.0)))
    made.report(event())
    assert entered.wait(5.0)
    assert made.close(0.05) == ("eventbus.test.callbacks",)
    release.set()


def test_a_callback_must_be_callable() -> None:
    with pytest.raises(TypeError, match="reconnect callback"):
        Callbacks("test").register("reconnect", "x")  # type: ignore[arg-type]


def test_each_kind_of_event_reaches_its_own_callbacks_only() -> None:
    made, seen = Callbacks("test"), list[tuple[str, object]]()
    for kind in ("reconnect", "error", "state"):
        made.register(kind, lambda one, kind=kind: seen.append((kind, one)))
    made.moved("moved")  # type: ignore[arg-type]
    made.reconnected("reconnected")  # type: ignore[arg-type]
    made.report(event())
    assert made.close(5.0) == ()
    assert seen == [("state", "moved"), ("reconnect", "reconnected"), ("error", seen[-1][1])]


def test_one_callback_may_serve_two_kinds_and_leave_one_of_them() -> None:
    made, seen = Callbacks("test"), list[object]()
    made.register("state", seen.append)
    made.register("reconnect", seen.append)
    made.unregister("state", seen.append)
    made.moved("moved")  # type: ignore[arg-type]
    made.reconnected("reconnected")  # type: ignore[arg-type]
    made.close(5.0)
    assert seen == ["reconnected"]


def test_the_methods_of_one_object_registered_twice_are_one_callback() -> None:
    class Listener:
        def __init__(self) -> None:
            self.seen: list[object] = []

        def hear(self, one: object) -> None:
            self.seen.append(one)

    made, one, two = Callbacks("test"), Listener(), Listener()
    for listener in (one, one, two):
        made.register("state", listener.hear)  # each look at a bound method makes a new one
    made.moved("moved")  # type: ignore[arg-type]
    made.close(5.0)
    assert (one.seen, two.seen) == (["moved"], ["moved"])


def test_a_callback_may_unregister_itself_and_register_another() -> None:
    made, seen = Callbacks("test"), list[str]()

    def once(one: object) -> None:
        seen.append("once")
        made.unregister("state", once)
        made.register("state", lambda one: seen.append("next"))

    made.register("state", once)
    made.moved("first")  # type: ignore[arg-type]
    made.moved("second")  # type: ignore[arg-type]
    made.close(5.0)
    assert seen == ["once", "next"]


def test_registering_and_reporting_never_wait_for_a_callback_that_hangs() -> None:
    made, entered, release = Callbacks("test"), threading.Event(), threading.Event()
    made.register("state", lambda one: (entered.set(), release.wait(20.0)))
    made.moved("moved")  # type: ignore[arg-type]
    assert entered.wait(5.0)
    done = threading.Event()

    def go_on() -> None:
        made.register("error", print)
        made.unregister("error", print)
        made.report(event())
        made.moved("moved")  # type: ignore[arg-type]
        done.set()

    threading.Thread(target=go_on).start()
    assert done.wait(5.0), "it waits behind the callback"
    release.set()
    assert made.close(5.0) == ()


def test_after_the_close_nothing_runs_and_nothing_fails() -> None:
    made, seen = Callbacks("test"), list[object]()
    made.register("error", seen.append)
    made.close(5.0)
    made.report(event())
    assert made.close(5.0) == ()
    assert seen == []


class Awaited:
    """Called, it only makes something to be awaited."""

    async def __call__(self, one: object) -> None: ...

    async def method(self, one: object) -> None: ...


async def coroutine(one: object) -> None: ...


async def generated(one: object) -> AsyncIterator[int]:
    yield 1


def generator(one: object) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "callback",
    [coroutine, generated, generator, partial(coroutine), partial(partial(generator)), Awaited(), Awaited().method],
)
@pytest.mark.parametrize("kind", ["reconnect", "error", "state"])
def test_what_would_never_run_is_refused(kind: str, callback: Callable[[object], object]) -> None:
    made = Callbacks("test")
    with pytest.raises(TypeError, match=f"{kind} callback is an? .*, which would never run"):
        made.register(kind, callback)
    assert made._lists[kind] == []


def test_a_callback_that_returns_something_to_be_awaited_has_failed() -> None:
    made, seen = Callbacks("test"), list[ErrorEvent]()
    made.register("state", lambda one: coroutine(one) if one else None)
    made.register("error", seen.append)
    made.moved("moved")  # type: ignore[arg-type]
    wait_until(lambda: seen)
    assert made.close(5.0) == ()
    assert isinstance(seen[0].error, TypeError)


def test_callbacks_registered_by_many_threads_at_once_are_all_there_and_each_is_called_once() -> None:
    made, seen, shared = Callbacks("test"), list[int](), list[object]()
    barrier = threading.Barrier(8)

    def run(number: int) -> None:
        barrier.wait(5.0)
        for step in range(50):
            made.register("state", lambda one, own=number * 50 + step: seen.append(own))
            made.register("state", shared.append)
            made.register("state", print)
            made.unregister("state", print)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert print not in made._lists["state"]
    made.moved("moved")  # type: ignore[arg-type]
    assert made.close(5.0) == ()
    assert sorted(seen) == list(range(400))
    assert len(shared) == 1


def test_a_tally_tells_how_many_there_were_since_it_was_asked() -> None:
    tally = Tally()
    told = []
    for added in (0, 3, 1, 0, 0, 7):
        for _ in range(added):
            tally.add()
        told.append(tally.take())
    assert told == [0, 3, 1, 0, 0, 7]


def test_each_kind_can_be_unregistered_from_a_bus() -> None:
    seen: list[str] = []
    bus = EventBus("memory://callbacks")

    def stays(state: object) -> None:
        seen.append("stays")

    def goes(state: object) -> None:
        seen.append("goes")

    for callback in (stays, goes):
        bus.register_state_callback(callback)
        bus.register_error_callback(callback)
    bus.unregister_state_callback(goes)
    bus.unregister_error_callback(goes)
    bus.unregister_error_callback(goes)
    bus._callbacks.report(event())
    with bus:
        pass
    assert set(seen) == {"stays"}


def test_callbacks_that_publish_raise_or_block_change_nothing_else() -> None:
    entered, release = threading.Event(), threading.Event()
    with EventBus("memory://callbacks") as bus:

        def publishes(one: object) -> None:
            bus.publish("orders", b"from a callback")
            entered.set()
            release.wait(20.0)
            raise SystemExit

        bus.register_state_callback(publishes)
        bus._callbacks.moved("moved")  # type: ignore[arg-type]
        assert entered.wait(5.0)
        assert bus.publish("orders", b"x", timeout=5.0).confirmed
        assert bus.flush(5.0).unanswered == 0
        assert bus.get_connection_state().is_connected
        bus.unregister_state_callback(publishes)
        release.set()
