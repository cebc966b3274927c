"""Whether a bus lets calls in: it does until it is closed, or finds itself in a forked child."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

from .errors import ClosedError, ForkedError

_gates: weakref.WeakSet[Gate] = weakref.WeakSet()


class Gate:
    """One for each bus. It shuts once and for all; `on_shut()` is called then, and must be quick.

    `on_fork()` is called instead in a forked child when the bus was not opened before; it may be opened there.
    """

    def __init__(self, bus: str, on_shut: Callable[[], object], on_fork: Callable[[], object]) -> None:
        self._bus = bus
        self._on_shut = on_shut
        self._on_fork = on_fork
        self._guarded = False
        _gates.add(self)
        self._reason: type[ClosedError] | type[ForkedError] | None = None

    @property
    def is_shut(self) -> bool:
        """Whether `check` raises."""
        return self._reason is not None

    @property
    def is_forked(self) -> bool:
        """Whether this is a child's copy of a bus that its parent has opened."""
        return self._reason is ForkedError

    def guard(self) -> None:
        """The bus is being opened: from now on a fork shuts the child's copy."""
        self._guarded = True

    def shut(self) -> None:
        """The bus is being closed."""
        self._shut(ClosedError)

    def check(self) -> None:
        """ClosedError or ForkedError once it is shut."""
        if self._reason is ForkedError:
            raise ForkedError(
                f"{self._bus}: opened before os.fork(), its connection belongs to the parent; "
                "make and open a bus in the child (gunicorn: post_fork)"
            )
        if self._reason is not None:
            raise ClosedError(f"{self._bus}: the bus is closed; make a new one")

    def _shut(self, reason: type[ClosedError] | type[ForkedError]) -> None:
        self._reason = reason
        self._on_shut()


def _after_fork_in_child() -> None:
    # No lock is taken: another thread of the parent may have held it.
    for gate in list(_gates):
        if gate._guarded:
            gate._shut(ForkedError)
        else:
            gate._on_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
