"""What may be called by the library: plain functions, not those that only make something to be awaited."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial


def check_plain(function: object, what: str, *, takes: int) -> None:
    """ValueError unless it can be called with so many arguments, and runs when it is called.

    A coroutine function, a generator function or an async generator function would return at once without a line of
    it having run, also behind `functools.partial` or as the `__call__` of an object. what: names it in the error.
    """
    if not callable(function):
        raise ValueError(f"{what} must be callable, not {type(function).__name__}")
    inner: object = function
    while isinstance(inner, partial):
        inner = inner.func
    for one in (inner, inspect.getattr_static(type(inner), "__call__", None), getattr(inner, "__func__", None)):
        kind = _kind(one)
        if kind:
            raise ValueError(f"{what} is {kind}, which would never run: pass a plain function")
    _check_takes(function, what, takes)


def check_argument(function: object, what: str, *, takes: int) -> None:
    """The same of what a call was given: TypeError."""
    try:
        check_plain(function, what, takes=takes)
    except ValueError as error:
        raise TypeError(str(error)) from None


def refuse_bare(topic: object, decorator: str) -> None:
    """TypeError for a decorator that takes a topic and was given the function: it would be lost without a word."""
    if callable(topic):
        raise TypeError(f"{decorator} takes a topic first: @{decorator}('orders.*', group='billing'), say")


def refuse_unawaited(result: object) -> None:
    """TypeError for what a call has returned that still wants to be awaited or iterated; it is closed."""
    if isinstance(result, Awaitable) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        close = getattr(result, "close", None)
        if close is not None and not inspect.isasyncgen(result):
            close()
        raise TypeError(f"the handler returned a {type(result).__name__}, which nobody awaits: nothing of it has run")


def _check_takes(function: Callable[..., object], what: str, count: int) -> None:
    """Each call would fail, and that is known before the first.

    What is around a function counts, not what it wraps; what does not tell its parameters is let through.
    """
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*[None] * count)
    except TypeError as error:
        wanted = ("no argument", "one argument", "two arguments")[count]
        raise ValueError(f"{what} must take {wanted}, and takes {signature}: {error}") from None


def _kind(function: object) -> str:
    if inspect.iscoroutinefunction(function):
        return "a coroutine function"
    if inspect.isasyncgenfunction(function):
        return "an async generator function"
    if inspect.isgeneratorfunction(function):
        return "a generator function"
    return ""
