"""A wrong argument is a typed error at the door, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import eventbus
from eventbus import (
    ConfigError,
    EventBus,
    EventBusConfig,
    KafkaConfig,
    Message,
    NatsConfig,
    NotInitializedError,
    Phase,
    PublishRejectedError,
    SubscribeError,
)
from eventbus.testing.memory import MemoryOutages

URL = "memory://arguments"


@pytest.fixture
def bus() -> Iterator[EventBus]:
    with EventBus(URL) as opened:
        yield opened
    MemoryOutages("arguments").forget()


def handler(message: Message) -> None: ...


TAKE_A_TIMEOUT: dict[str, Callable[[EventBus, Any], object]] = {
    "open": lambda bus, timeout: EventBus(URL).open(timeout),
    "open without waiting": lambda bus, timeout: EventBus(URL).open(timeout, wait=False),
    "open once more": lambda bus, timeout: bus.open(timeout),
    "close": lambda bus, timeout: bus.close(timeout),
    "publish": lambda bus, timeout: bus.publish("orders", b"", timeout=timeout),
    "publish_async": lambda bus, timeout: bus.publish_async("orders", b"", timeout=timeout),
    "publish_many": lambda bus, timeout: bus.publish_many([], timeout=timeout),
    "flush": lambda bus, timeout: bus.flush(timeout),
    "unsubscribe": lambda bus, timeout: bus.unsubscribe(bus.subscribe("orders", handler), timeout),
    "stop_health_check": lambda bus, timeout: bus.stop_health_check(timeout),
    "reconnect": lambda bus, timeout: bus.reconnect(timeout),
    "wait_connected": lambda bus, timeout: bus.wait_connected(timeout),
    "close_global": lambda bus, timeout: eventbus.close_global(timeout),
}
NO_TIMEOUTS: list[object] = [float("nan"), float("-inf"), -1, -0.001, True, False, "1", "soon", b"1", [], object, 1j]


@pytest.mark.parametrize("timeout", NO_TIMEOUTS, ids=repr)
@pytest.mark.parametrize("call", TAKE_A_TIMEOUT)
def test_what_is_no_timeout_is_refused(call: str, timeout: object, bus: EventBus) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds"):
        TAKE_A_TIMEOUT[call](bus, timeout)
    assert bus.get_connection_state().is_connected
    assert bus.get_health_status().is_running
    assert bus.publish("orders", b"x").confirmed
    assert bus.get_statistics().published == 1


@pytest.mark.parametrize("timeout", [0, 0.0, 1, 2.5, 1e300, float("inf"), None])
def test_what_is_a_timeout_is_taken(timeout: float | None, bus: EventBus) -> None:
    assert bus.flush(timeout).unanswered == 0
    assert bus.publish_many([], timeout=timeout) == []
    assert bus.wait_connected(timeout)  # type: ignore[arg-type]


@pytest.mark.parametrize("wait", ["yes", "no", 1, 0, None, []], ids=repr)
def test_a_flag_is_a_bool(wait: Any) -> None:
    bus = EventBus(URL)
    with pytest.raises(TypeError, match="wait must be True or False"):
        bus.open(wait=wait)
    assert bus.get_connection_state().phase is Phase.NEW
    with pytest.raises(TypeError, match="wait must be True or False"):
        eventbus.initialize_from_config(URL, wait=wait)
    with pytest.raises(NotInitializedError):
        eventbus.get_global()


WRONG: dict[str, tuple[type[Exception], str, Callable[[EventBus], object]]] = {
    "concurrency=True": (SubscribeError, "concurrency", lambda bus: bus.subscribe("t", handler, concurrency=True)),
    "concurrency=0": (SubscribeError, "concurrency", lambda bus: bus.subscribe("t", handler, concurrency=0)),
    "concurrency=1001": (SubscribeError, "1 to 1000", lambda bus: bus.subscribe("t", handler, concurrency=1001)),
    "concurrency=10**9": (SubscribeError, "1 to 1000", lambda bus: bus.subscribe("t", handler, concurrency=10**9)),
    "concurrency=1.5": (SubscribeError, "concurrency", lambda bus: bus.subscribe("t", handler, concurrency=1.5)),  # type: ignore[arg-type]
    "start=x": (SubscribeError, "start", lambda bus: bus.subscribe("t", handler, start="x")),
    "start=[]": (SubscribeError, "start", lambda bus: bus.subscribe("t", handler, start=[])),  # type: ignore[arg-type]
    "group=5": (SubscribeError, "group", lambda bus: bus.subscribe("t", handler, group=5)),  # type: ignore[arg-type]
    "group=''": (SubscribeError, "group", lambda bus: bus.subscribe("t", handler, group="")),
    "subscribe(5)": (SubscribeError, "topic", lambda bus: bus.subscribe(5, handler)),  # type: ignore[arg-type]
    "subscribe('')": (SubscribeError, "topic", lambda bus: bus.subscribe("", handler)),
    "handler=None": (SubscribeError, "callable", lambda bus: bus.subscribe("t", None)),  # type: ignore[arg-type]
    "on(5)": (SubscribeError, "topic", lambda bus: bus.on(5)(handler)),  # type: ignore[arg-type]
    "publish(5)": (PublishRejectedError, "topic", lambda bus: bus.publish(5, b"")),  # type: ignore[arg-type]
    "payload=None": (TypeError, "None", lambda bus: bus.publish("t", None)),
    "payload=object()": (PublishRejectedError, "payload", lambda bus: bus.publish("t", object())),
    "key=5": (PublishRejectedError, "key", lambda bus: bus.publish("t", b"", key=5)),  # type: ignore[arg-type]
    "id=5": (PublishRejectedError, "id", lambda bus: bus.publish("t", b"", id=5)),  # type: ignore[arg-type]
    "headers=5": (PublishRejectedError, "headers", lambda bus: bus.publish("t", b"", headers=5)),  # type: ignore[arg-type]
    "many of 5": (TypeError, "iterable", lambda bus: bus.publish_many(5)),  # type: ignore[arg-type]
    "many of str": (TypeError, "Message", lambda bus: bus.publish_many("ab")),  # type: ignore[arg-type]
    "error callback": (TypeError, "error", lambda bus: bus.register_error_callback(5)),  # type: ignore[arg-type]
    "state callback": (TypeError, "state", lambda bus: bus.register_state_callback("x")),  # type: ignore[arg-type]
    "reconnect callback": (TypeError, "reconnect", lambda bus: bus.register_reconnect_callback(None)),  # type: ignore[arg-type]
    "EventBus(5)": (ConfigError, "int", lambda bus: EventBus(5)),  # type: ignore[arg-type]
    "nats(None)": (ConfigError, "servers", lambda bus: eventbus.get_default_nats_config(None)),  # type: ignore[arg-type]
    "kafka(5)": (ConfigError, "brokers", lambda bus: eventbus.get_default_kafka_config(5)),  # type: ignore[arg-type]
    "memory(5)": (ConfigError, "name", lambda bus: eventbus.get_default_memory_config(5)),  # type: ignore[arg-type]
    "name=None": (ConfigError, "name", lambda bus: EventBusConfig(name=None)),
    "brokers=[5]": (ConfigError, "brokers", lambda bus: KafkaConfig(brokers=[5])),
    "stream=5": (ConfigError, "stream", lambda bus: NatsConfig(stream=5)),
    "on_outage=[]": (ConfigError, "on_outage", lambda bus: EventBusConfig(on_outage=[])),
    "connect_timeout=nan": (ConfigError, "connect_timeout", lambda bus: EventBusConfig(connect_timeout=float("nan"))),
    "close_timeout=True": (ConfigError, "close_timeout", lambda bus: EventBusConfig(close_timeout=True)),
    "publish_timeout=-1": (ConfigError, "publish_timeout", lambda bus: EventBusConfig(publish_timeout=-1)),
}


@pytest.mark.parametrize("call", WRONG)
def test_a_wrong_argument_is_a_typed_error(call: str, bus: EventBus) -> None:
    error, words, wrong = WRONG[call]
    with pytest.raises(error, match=words):
        wrong(bus)
    assert bus.get_statistics().published == 0
    assert bus.publish("orders", b"x").confirmed
