"""Waiting for a condition, with a deadline: what a test does instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SHORTEST = 0.001
LONGEST = 0.02


def wait_until(condition: Callable[[], T], timeout: float = 10.0, *, message: str | Callable[[], str] = "") -> T:
    """Ask ``condition()`` until it is true, and return what it answered.

    It is asked at least once, on the calling thread, then after 1 ms and at growing intervals of
    up to 20 ms, and a last time at the deadline. What it raises is not caught.

    Raises:
        AssertionError: still false after ``timeout`` seconds. The text holds ``message`` (a
            callable is asked only then, so that it can show the state at the deadline).
    """
    started = time.monotonic()
    deadline = started + timeout
    interval = SHORTEST
    while True:
        late = time.monotonic() >= deadline
        value = condition()
        if value:
            return value
        if late:
            break
        time.sleep(max(0.0, min(interval, deadline - time.monotonic())))
        interval = min(interval * 1.3, LONGEST)
    wanted = (message() if callable(message) else message) or _name_of(condition)
    waited = time.monotonic() - started
    raise AssertionError(f"not within {timeout:g} s: {wanted} (waited {waited:.2f} s, last answer {value!r})")


def _name_of(condition: Callable[[], object]) -> str:
    name = getattr(condition, "__qualname__", None) or repr(condition)
    code = getattr(condition, "__code__", None)
    return f"{name} (line {code.co_firstlineno})" if code else name
