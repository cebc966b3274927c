"""librdkafka's handles and `os.fork()`: a child must never end a handle of its parent."""

from __future__ import annotations

import ctypes
import os
from typing import Any, TypeVar
from weakref import WeakSet

import confluent_kafka

_Handle = TypeVar("_Handle")

_kept: WeakSet[Any] = WeakSet()


class Producer(confluent_kafka.Producer):
    """One that can be referred to weakly."""


class Consumer(confluent_kafka.Consumer):
    """One that can be referred to weakly."""


def keep(handle: _Handle) -> _Handle:
    """Remember a client for as long as it lives: in a forked child it is leaked.

    Its threads are not there in the child: ending it there hangs, or aborts the process even at a plain exit.
    """
    _kept.add(handle)
    return handle


def _leak() -> None:
    for handle in list(_kept):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))


os.register_at_fork(after_in_child=_leak)
