"""What other threads had taken when a process forked is free in the child: they are not there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from weakref import WeakSet

from ..forks import let_go_in_child

_all: WeakSet[Renewed] = WeakSet()


class Renewed(ABC):
    """Made anew in a forked child, as far as `_renew` does that, which begins it, too."""

    def __init__(self) -> None:
        self._renew()
        _all.add(self)

    @abstractmethod
    def _renew(self) -> None: ...


@let_go_in_child
def _after_fork_in_child() -> None:
    for one in list(_all):
        one._renew()
