"""Beside: callbacks, log handlers and handlers are other people's code: they call the bus, block, raise, and leave."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
from rounds import limit
from world_support import QUICK, MakeBus, Outages, Seen, assert_closes, assert_well, end, fresh, took

import eventbus
from eventbus import EventBus, Message
from eventbus.testing import NatsServer, wait_until

pytestmark = pytest.mark.watchdog(limit(20.0))

SOON = 2.0
"""Seconds in which a neighbour's work is done."""
CALLS: dict[str, Callable[[EventBus, str], object]] = {
    "publish": lambda bus, topic: bus.publish(topic, b"x", timeout=SOON),
    "publish_async": lambda bus, topic: bus.publish_async(topic, b"x").result(SOON),
    "publish_nowait": lambda bus, topic: bus.publish_nowait(topic, b"x"),
    "publish_many": lambda bus, topic: bus.publish_many([Message(topic, b"x")], timeout=SOON),
    "flush": lambda bus, topic: bus.flush(SOON),
    "subscribe": lambda bus, topic: bus.unsubscribe(bus.subscribe(topic, lambda message: None, group=fresh("g")), 1.0),
    "status": lambda bus, topic: (bus.get_statistics(), bus.get_connection_state(), bus.get_health_status()),
    "callbacks": lambda bus, topic: bus.unregister_reconnect_callback(bus.register_reconnect_callback(print)),
    "health check": lambda bus, topic: (bus.stop_health_check(1.0), bus.start_health_check()),
}


@pytest.fixture
def blocked() -> Iterator[threading.Event]:
    """What a bad one waits for; set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def _handler(bus: EventBus, call: Callable[[], None]) -> None:
    bus.subscribe("place", lambda message: call(), group="group")
    bus.publish("place", b"x")


def _done_callback(bus: EventBus, call: Callable[[], None]) -> None:
    def done(future: Future[eventbus.Receipt]) -> None:
        call()

    bus.publish_async("place", b"x").add_done_callback(done)


def _reconnect_callback(bus: EventBus, call: Callable[[], None]) -> None:
    bus.register_reconnect_callback(lambda event: call())
    bus.reconnect(5.0)


def _error_callback(bus: EventBus, call: Callable[[], None]) -> None:
    def fail(message: Message) -> None:
        raise ValueError("a failing handler")

    bus.register_error_callback(lambda event: call())
    bus.subscribe("place", fail, group="group")
    bus.publish("place", b"x")


PLACES = [_handler, _done_callback, _reconnect_callback, _error_callback]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__.removeprefix("_"))
def test_every_call_returns_in_time_from_our_own_threads(
    make_bus: MakeBus, place: Callable[[EventBus, Callable[[], None]], None]
) -> None:
    bus, topic, results, once = make_bus(), fresh("calls"), {}, threading.Lock()
    bus.open()

    def call_all() -> None:
        if not once.acquire(blocking=False):
            return  # an event of a call of ours
        for name, call in CALLS.items():
            try:
                results[name] = took(lambda call=call: call(bus, topic))  # type: ignore[misc]
            except BaseException as error:
                results[name] = error

    place(bus, call_all)
    wait_until(lambda: len(results) == len(CALLS), 15.0, message=lambda: f"{results}")
    wrong = {name: found for name, found in results.items() if not isinstance(found, float) or found > SOON}
    assert not wrong
    assert_well(bus, topic, "afterwards")
    assert_closes(bus, "afterwards")


class Log(logging.Handler):
    """A log handler that does something at each record of the library, on the thread that logs."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(logging.DEBUG)
        self.records = 0
        self.errors: list[BaseException] = []
        self._act = act
        self._inside = threading.local()

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the handler's lock: what is tried here are our locks, not the logging module's."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Act, but not on what that logs itself."""
        if getattr(self._inside, "busy", False):
            return
        self._inside.busy = True
        self.records += 1
        try:
            self._act()
        except (eventbus.EventBusError, TimeoutError) as error:
            self.errors.append(error)
        finally:
            self._inside.busy = False


@pytest.fixture
def log() -> Iterator[Callable[[Callable[[], object]], Log]]:
    """`log(act)` installs a `Log`."""
    logger, handlers = logging.getLogger("eventbus"), []
    level = logger.level

    def install(act: Callable[[], object]) -> Log:
        handler = Log(act)
        handlers.append(handler)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        return handler

    yield install
    logger.setLevel(level)
    for handler in handlers:
        logger.removeHandler(handler)


def test_a_log_handler_may_call_the_bus(
    memory_bus: MakeBus, outages: Outages, log: Callable[[Callable[[], object]], Log]
) -> None:
    """As those that ship logs through the bus: no lock of ours is held while we log."""
    bus, seen = memory_bus(health_check={"interval": 0.1, "timeout": 0.1, "retry_interval": 0.05}), Seen()

    def ship() -> None:
        bus.get_connection_state(), bus.get_health_status(), bus.get_statistics(), bus.get_reconnect_status()
        bus.publish_nowait("logs", b"a line")

    found = log(ship)
    bus.open()
    bus.subscribe("logs", seen, group="group")
    for number in range(3):
        outages.refuse()
        wait_until(lambda: not bus.get_connection_state().is_connected, SOON)
        outages.restore()
        wait_until(lambda number=number: bus.get_connection_state().reconnect_count == number + 1, 5.0)  # type: ignore[misc]
    bus.publish("logs", b"last")
    wait_until(lambda: b"last" in seen.payloads and b"a line" in seen.payloads, SOON)
    assert found.records
    assert_well(bus, "logs", "beside a log handler that publishes")
    assert_closes(bus, "beside a log handler that publishes")


def test_a_log_handler_that_blocks_stops_only_who_logs(
    memory_bus: MakeBus, log: Callable[[Callable[[], object]], Log], blocked: threading.Event
) -> None:
    bus, seen = memory_bus(), Seen()
    bus.open()
    bus.subscribe("topic", seen, group="group")

    def fail(message: Message) -> None:
        raise ValueError("logged, and the log blocks")

    bus.subscribe("failing", fail, group="group")
    main = threading.main_thread()
    found = log(lambda: threading.current_thread() is main or blocked.wait(10.0))
    bus.publish("failing", b"x")
    wait_until(lambda: found.records, SOON)
    futures = [bus.publish_async("topic", b"x") for _ in range(50)]
    assert all(future.result(SOON).confirmed for future in futures)
    seen.wait(50, SOON)
    assert_well(bus, "topic", "beside a log handler that blocks")
    assert took(lambda: bus.close(0.5)) < 0.5 + QUICK
    blocked.set()


def _survives_a_log_that_raises(bus: EventBus, leaves: BaseException, restart: Callable[[], object]) -> None:
    """The handler is installed before the restart, and raises until the test ends."""
    topic, seen = fresh("log"), Seen()
    bus.open()
    bus.subscribe(topic, seen, group="group")

    def fail(message: Message) -> None:
        if not seen.messages:
            seen(message)
            raise ValueError("it is logged, and tried again")
        seen(message)

    bus.subscribe(f"{topic}.failing", fail, group="group")
    for number in range(1, 4):
        restart()
        wait_until(lambda number=number: bus.get_connection_state().reconnect_count >= number, 10.0)  # type: ignore[misc]
        assert bus.wait_connected(10.0)
        assert bus.get_health_status().is_running, f"after restart {number}"
    bus.publish(f"{topic}.failing", b"x")
    seen.wait(2, 5.0)
    assert_well(bus, topic, f"beside a log handler that raises {leaves!r}")
    assert_closes(bus, f"beside a log handler that raises {leaves!r}")


def _raising(leaves: BaseException) -> Callable[[], object]:
    def leave() -> None:
        if threading.current_thread() is not threading.main_thread():
            raise leaves

    return leave


FULL = [OSError(28, "No space left on device"), SystemExit("log")]


@pytest.mark.parametrize("leaves", FULL, ids=repr)
def test_a_log_handler_that_raises_ends_nothing(
    memory_bus: MakeBus, outages: Outages, log: Callable[[Callable[[], object]], Log], leaves: BaseException
) -> None:
    bus = memory_bus(health_check={"interval": 0.1, "timeout": 0.1, "retry_interval": 0.05})

    def restart() -> None:
        outages.refuse()
        wait_until(lambda: not bus.get_connection_state().is_connected, SOON)
        outages.restore()

    found = log(_raising(leaves))
    _survives_a_log_that_raises(bus, leaves, restart)
    assert found.records


@pytest.mark.nats
@pytest.mark.parametrize("leaves", FULL, ids=repr)
def test_a_log_handler_that_raises_ends_nothing_on_nats(
    nats_server: NatsServer, log: Callable[[Callable[[], object]], Log], leaves: BaseException
) -> None:
    found = log(_raising(leaves))
    bus = EventBus({"url": nats_server.url, "health_check": {"interval": 0.3}})
    try:
        _survives_a_log_that_raises(bus, leaves, nats_server.restart)
    finally:
        end(bus)
    assert found.records


@pytest.mark.parametrize("leaves", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_handler_that_leaves_with_more_than_an_exception_costs_no_lane(
    make_bus: MakeBus, leaves: type[BaseException]
) -> None:
    """It raises: a failure, whatever it is. Other keys go on on the same lane, and it is tried again."""
    bus, topic, good, tries = make_bus(), fresh("leaves"), Seen(), Seen()
    bus.open()

    def handle(message: Message) -> None:
        if message.key == "bad":
            tries(message)
            if len(tries.messages) < 3:
                raise leaves
        else:
            good(message)

    bus.subscribe(topic, handle, group="group")
    bus.publish(topic, b"x", key="bad")
    bus.publish_many([Message(topic, b"x", key="good") for _ in range(10)])
    good.wait(10, SOON)
    tries.wait(3, 5.0)
    assert_closes(bus, "afterwards")


@pytest.mark.parametrize("leaves", [SystemExit, ValueError])
def test_a_callback_that_raises_costs_no_thread(memory_bus: MakeBus, leaves: type[BaseException]) -> None:
    bus, events, states = memory_bus(), [], []
    bus.open()

    def leave(event: object) -> None:
        raise leaves

    bus.register_reconnect_callback(leave)
    bus.register_reconnect_callback(events.append)
    bus.register_state_callback(leave)
    bus.register_state_callback(states.append)
    for number in range(1, 4):
        bus.publish_async("topic", b"x").add_done_callback(leave)
        bus.reconnect(5.0)
        wait_until(lambda number=number: len(events) == number, SOON)  # type: ignore[misc]
    assert bus.publish_async("topic", b"x").result(SOON).confirmed
    assert states
    assert_closes(bus, "afterwards")


class Answer:
    """Not a plain answer of a handler: somebody has to await it."""

    def __await__(self) -> Iterator[None]:
        yield


async def coroutine_handler(message: Message) -> None:
    """It would be acknowledged and never run."""


def generator_handler(message: Message) -> Iterator[None]:
    """As that."""
    yield


class CallableCoroutine:
    """A coroutine in the clothes of an object."""

    async def __call__(self, message: Message) -> None:
        """As that."""


@pytest.mark.parametrize("handler", [coroutine_handler, generator_handler, CallableCoroutine(), None, 5])
def test_what_is_no_plain_function_is_refused_as_a_handler(memory_bus: MakeBus, handler: object) -> None:
    bus, seen = memory_bus(), Seen()
    bus.open()
    with pytest.raises(eventbus.SubscribeError):
        bus.subscribe("topic", handler, group="group")  # type: ignore[arg-type]
    bus.subscribe("topic", seen, group="group")
    bus.publish("topic", b"x")
    seen.wait(1, SOON)


def test_an_awaitable_that_a_handler_returns_is_a_failure(memory_bus: MakeBus) -> None:
    bus, seen = memory_bus(), Seen()
    bus.open()

    def handle(message: Message) -> object:
        seen(message)
        return Answer() if len(seen.messages) < 3 else None

    bus.subscribe("topic", handle, group="group")
    bus.publish("topic", b"x")
    seen.wait(3, 5.0)
    wait_until(lambda: (bus.get_statistics().retried, bus.get_statistics().handled) == (2, 1), SOON)
