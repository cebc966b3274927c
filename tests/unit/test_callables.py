"""What may be called: plain functions, and nothing that would be acknowledged without having run."""

from __future__ import annotations

import functools

import pytest

from eventbus import EventBus, SubscribeError
from eventbus.callables import check_plain, refuse_unawaited


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
        check_plain(handler, "handler")
    with pytest.raises(SubscribeError, match="never run"):
        EventBus("memory://callables").subscribe("t", handler, group="g")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "handler", [print, len, Plain(), Plain().method, functools.partial(print), lambda m: None, dict]
)
def test_what_runs_when_it_is_called_is_taken(handler: object) -> None:
    check_plain(handler, "handler")


def test_what_cannot_be_called_is_named() -> None:
    with pytest.raises(ValueError, match="callback must be callable, not int"):
        check_plain(3, "callback")


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
