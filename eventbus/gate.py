"""Whether a bus lets calls in: it does until it is closed, or finds itself in a forked child."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

from .errors import ClosedError, ForkedError

_gates: weakref.WeakSet[Gate] = weakref.WeakSet()


class Gate:
    """One for each bus. It shuts once and for all.

    In a forked child, which has one thread and locks that nobody will ever release, the copy of a bus that was being
    opened or was open is shut and told by `on_forked()`. Another one is told by `on_inherited()`: it may be opened
    there. Neither may take a lock.
    """

    def __init__(self, bus: str, on_forked: Callable[[], object], on_inherited: Callable[[], object]) -> None:
        self._bus = bus
        self._on_forked = on_forked
        self._on_inherited = on_inherited
        self._guarded = False
        self._reason: type[ClosedError] | type[ForkedError] | None = None
        _gates.add(self)

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

    def unguard(self) -> None:
        """It was not opened after all."""
        self._guarded = False

    def shut(self) -> None:
        """The bus is being closed."""
        if self._reason is None:
            self._reason = ClosedError

    def check(self) -> None:
        """ClosedError or ForkedError once it is shut."""
        if self._reason is not None:
            raise self.error()

    def error(self) -> ClosedError | ForkedError:
        """What `check` raises once it is shut."""
        if self._reason is ForkedError:
            return ForkedError(
                f"{self._bus}: opened before os.fork(), its connection belongs to the parent; "
                "make and open a bus in the child (gunicorn: post_fork)"
            )
        return ClosedError(f"{self._bus}: the bus is closed; make a new one")

    def _after_fork(self) -> None:
        if self._reason is not None or not self._guarded:
            self._on_inherited()
        else:
            self._reason = ForkedError
            self._on_forked()


def _after_fork_in_child() -> None:
    for gate in list(_gates):
        gate._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
