"""What may be called: plain functions, and nothing that would be acknowledged without having run."""

from __future__ import annotations

import functools
import queue
import sqlite3
from collections.abc import Callable
from unittest.mock import Mock

import pytest

from eventbus import EventBus, KafkaConfig, NatsConfig, SubscribeError, deduplicate
from eventbus.callables import check_plain, refuse_unawaited
from eventbus.deduplication import DbApiStore, TransactionStore


async def coroutine(message: object) -> None: ...


def generator(message: object):
    yield


async def async_generator(message: object):
    yield


class Plain:
    def __call__(self, message: object) -> None: ...

    def method(self, message: object) -> None: ...


class Async:
    async def __call__(self, message: object) -> None: ...

    async def method(self, message: object) -> None: ...


NEVER_RUN = [
    coroutine,
    generator,
    async_generator,
    functools.partial(coroutine, 1),
    functools.partial(functools.partial(generator)),
    Async(),
    Async().method,
    functools.partial(Async().method),
]


@pytest.mark.parametrize("handler", NEVER_RUN, ids=lambda one: type(one).__name__)
def test_what_would_never_run_is_refused(handler: object) -> None:
    with pytest.raises(ValueError, match="never run"):
        check_plain(handler, "handler", takes=1)
    with pytest.raises(SubscribeError, match="never run"):
        EventBus("memory://callables").subscribe("t", handler, group="g")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "handler", [print, len, Plain(), Plain().method, functools.partial(print), lambda m: None, dict]
)
def test_what_runs_when_it_is_called_is_taken(handler: object) -> None:
    check_plain(handler, "handler", takes=1)


def test_what_cannot_be_called_is_named() -> None:
    with pytest.raises(ValueError, match="callback must be callable, not int"):
        check_plain(3, "callback", takes=1)


def test_what_wants_to_be_awaited_is_closed_and_refused() -> None:
    made = coroutine(1)
    with pytest.raises(TypeError, match="coroutine"):
        refuse_unawaited(made)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        made.send(None)
    with pytest.raises(TypeError, match="generator"):
        refuse_unawaited(generator(1))
    for fine in (0, "x", [1], object()):
        refuse_unawaited(fine)


def injected(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def wrapper(message: object) -> object:
        return function("a database", message)

    return wrapper


@injected
def handles_with_a_database(database: object, message: object) -> None:
    """Two parameters, one of which the decorator gives."""


def no_parameter() -> None:
    """Nothing can be given to it."""


def two_parameters(message: object, context: object) -> None:
    """Somebody would have to give it a context."""


@pytest.mark.parametrize("function", [no_parameter, two_parameters, lambda: None])
def test_a_handler_that_cannot_be_given_a_message_is_refused(function: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="handler must take one argument, and takes"):
        check_plain(function, "handler", takes=1)
    with EventBus("memory://takes-one") as bus, pytest.raises(SubscribeError, match="must take one argument"):
        bus.subscribe("t", function, group="g")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "function",
    [
        lambda message: None,
        lambda *arguments: None,
        lambda message, context=None: None,
        functools.partial(two_parameters, context=1),
        handles_with_a_database,
        print,
        dict.fromkeys,
        queue.SimpleQueue().put,
        [].append,
        Mock(),
    ],
)
def test_what_can_be_given_a_message_is_taken(function: Callable[..., object]) -> None:
    check_plain(function, "handler", takes=1)


def given_what_fails(bus: EventBus) -> dict[str, Callable[[], object]]:
    """Every door that takes a function, given one that cannot be called as it would be."""
    return {
        "consume": lambda: bus.use(consume=lambda message: None),  # type: ignore[arg-type]
        "publish": lambda: bus.use(publish=lambda: None),  # type: ignore[arg-type]
        "error": lambda: bus.register_error_callback(lambda: None),  # type: ignore[arg-type]
        "state": lambda: bus.register_state_callback(lambda before, after: None),  # type: ignore[arg-type]
        "reconnect": lambda: bus.register_reconnect_callback(lambda: None),  # type: ignore[arg-type]
        "filter": lambda: bus.replay_dead_letters("dlq.g.t", filter=lambda: True),  # type: ignore[arg-type]
        "progress": lambda: bus.replay_dead_letters("dlq.g.t", progress=lambda: None),  # type: ignore[arg-type]
        "key": lambda: deduplicate(key=lambda: ""),  # type: ignore[arg-type]
        "connect": lambda: DbApiStore(sqlite3, lambda name: None, claim_timeout=1.0),
        "connection": lambda: TransactionStore(sqlite3, lambda name: None),
        "password": lambda: KafkaConfig(user="u", password=lambda user: user),  # type: ignore[arg-type]
        "token": lambda: NatsConfig(token=lambda server: server),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("door", given_what_fails(EventBus("memory://doors")))
def test_no_door_takes_a_function_whose_every_call_would_fail(door: str) -> None:
    with (
        EventBus("memory://doors") as bus,
        pytest.raises((TypeError, ValueError), match=f"{door}.* must take .* takes"),
    ):
        given_what_fails(bus)[door]()


def test_a_decorator_without_its_topic_is_told_of() -> None:
    """It would take the function for a topic, and nobody would ever miss the subscription."""
    bus = EventBus("memory://bare")
    with pytest.raises(TypeError, match=r"takes a topic first: @on\('orders"):
        bus.on(print)  # type: ignore[arg-type]
    assert bus.get_subscriptions() == ()
