"""Whether a bus lets calls in: until it is closed; in a forked child, as `on_fork` says."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from math import inf

from .errors import ClosedError, ForkedError


class Entry(Enum):
    """What becomes of a call.

    UNUSED: let in; nothing is there yet that a forked child could not use. USED: let in; the bus is being opened, or
    is open. ASLEEP: a forked child's copy of one that was: the first call that needs it opens it. CLOSED, FORKED:
    turned away.
    """

    UNUSED = "unused"
    USED = "used"
    ASLEEP = "asleep"
    CLOSED = "closed"
    FORKED = "forked"


class Gate:
    """One for each bus, in each process. It shuts once and for all.

    begins: UNUSED, ASLEEP or CLOSED.
    wake(patience): opens the bus, on the thread of a call that needs it and has so many seconds.
    """

    def __init__(self, bus: str, begins: Entry, wake: Callable[[float], object]) -> None:
        self._bus = bus
        self._begins = self.entry = begins
        self._wake = wake

    @property
    def is_open(self) -> bool:
        """Whether `check` has nothing to do."""
        return self.entry is Entry.USED or self.entry is Entry.UNUSED

    @property
    def is_shut(self) -> bool:
        """Whether `check` raises."""
        return self.entry in (Entry.CLOSED, Entry.FORKED)

    @property
    def is_forked(self) -> bool:
        """Whether this is a child's copy that is not to be used."""
        return self.entry is Entry.FORKED

    @property
    def was_asleep(self) -> bool:
        """Whether this was a forked child's copy to be woken."""
        return self._begins is Entry.ASLEEP

    def guard(self) -> None:
        """The bus is being opened: from now on a forked child does not use what is here."""
        if self.entry is Entry.UNUSED:
            self.entry = Entry.USED

    def awake(self) -> None:
        """It is open, and has no need to be woken any more."""
        if self.entry is Entry.ASLEEP:
            self.entry = Entry.USED

    def unguard(self) -> None:
        """It was not opened after all."""
        if not self.is_shut:
            self.entry = self._begins

    def shut(self) -> None:
        """The bus is being closed."""
        if not self.is_shut:
            self.entry = Entry.CLOSED

    def fork(self) -> None:
        """This is a forked child's copy: whoever came in by it in the parent goes no further here."""
        if not self.is_shut:
            self.entry = Entry.FORKED

    def check(self, patience: float = inf) -> None:
        """ClosedError or ForkedError once it is shut; one that is asleep is woken."""
        if self.entry is Entry.ASLEEP:
            self._wake(patience)
        self.check_shut()

    def check_shut(self) -> None:
        """ClosedError or ForkedError once it is shut."""
        if self.is_shut:
            raise self.error()

    def error(self) -> ClosedError | ForkedError:
        """What `check` raises once it is shut."""
        return self.forked_error() if self.is_forked else ClosedError(f"{self._bus}: the bus is closed; make a new one")

    def forked_error(self) -> ForkedError:
        """What whoever is still in the parent's copy is told in a forked child."""
        return ForkedError(
            f"{self._bus}: what was opened or begun before os.fork() belongs to the parent; "
            "make and open a bus in the child, or begin anew with on_fork 'reopen' (which cannot be where gevent has "
            "patched)"
        )
