"""Who may start the handlers of an ordered group, and until when. No sockets, no threads, no lock: its owner does that.

A *pin* is the server's: it says which member is given the messages. It runs out when its member asks for nothing more,
and is forgotten when the server restarts or another one leads: so it gives no exclusivity. A *term* is a member's own:
it begins with a new pin, and its *lease* alone permits a handler to be started.
"""

from __future__ import annotations

import time
from collections import deque
from enum import Enum

from ....consuming.lease import Lease
from ....consuming.watermark import Watermark

NEVER = float("-inf")

if hasattr(time, "CLOCK_BOOTTIME"):

    def now() -> float:
        """Seconds of a clock that goes on while the machine sleeps: the server's leases do, too."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:
    now = time.monotonic


class TimedLease(Lease):
    """A lease that is over at a time, without anybody having to say so. Once over, it stays so.

    until: by `now`; whoever prolongs it does so while it lasts.
    """

    __slots__ = ("_over", "until")

    def __init__(self, until: float) -> None:
        self._over = False
        self.until = until

    @property
    def ended(self) -> bool:  # type: ignore[override]
        """Whether it is over. A process that was stopped for long finds out here, before it starts anything."""
        if not self._over and now() >= self.until:
            self._over = True
        return self._over

    def end(self) -> None:
        """It is over."""
        self._over = True


class Place(Enum):
    """Where a message stands. NEW: next in line. KNOWN: it came before, in this term. GAP: there is a gap before it."""

    NEW = "new"
    KNOWN = "known"
    GAP = "gap"


class Window:
    """What a term was given, in order, and how far all of it is done.

    The consumer numbers what it delivers. It begins again with 1 when it is reset, and what was numbered before may not
    be acknowledged any more: the server would take that for an acknowledgement of what has the number now.
    """

    def __init__(self) -> None:
        self._expected = 1
        self._newest = 0
        self._mark = Watermark(0)
        self._tokens: deque[tuple[int, bytes]] = deque()
        """By sequence, in the numbering of now; not acknowledged yet."""

    @property
    def tokens(self) -> list[bytes]:
        """Of all that is not acknowledged."""
        return [token for _, token in self._tokens]

    def begin_again(self) -> None:
        """The consumer is reset: only what is numbered from 1 on counts."""
        self._expected = 1
        self._newest = 0
        self._tokens.clear()

    def place(self, sequence: int, number: int, token: bytes) -> Place:
        """Where a message stands that has come; only what is NEW is to be handled."""
        if number == 1:
            self.begin_again()
        elif number != self._expected:
            return Place.GAP
        self._expected = number + 1
        if sequence <= self._newest:
            return Place.KNOWN  # again, after `ack_wait`: it stays acknowledged by its first number
        self._newest = sequence
        self._tokens.append((sequence, token))
        if sequence < self._mark.position:
            return Place.KNOWN
        self._mark.hand_out(sequence)
        return Place.NEW

    def finish(self, sequence: int) -> None:
        """This one is done; what is not in the window is remembered."""
        self._mark.finish(sequence)

    def take_done(self) -> tuple[int, bytes] | None:
        """Sequence and token of the newest message that is done with all before it, once; None where nothing is new."""
        tokens, end, found = self._tokens, self._mark.committed, None
        while tokens and tokens[0][0] < end:
            found = tokens.popleft()
        return found


class Term:
    """From a new pin to the end of its lease.

    holds_until: no message is taken before, by `now`: the member before may still have a lease. reset_at: when the
    consumer was asked to begin again, None if it need not. has_begun: a message was taken.
    """

    __slots__ = ("has_begun", "holds_until", "lease", "pin", "reset_at", "window")

    def __init__(self, pin: str, until: float, holds_until: float) -> None:
        self.pin = pin
        self.lease = TimedLease(until)
        self.window = Window()
        self.holds_until = holds_until
        self.reset_at: float | None = None
        self.has_begun = False

    @property
    def is_open(self) -> bool:
        """Whether messages may be asked for: nobody else's lease is waited for, and no reset is under way."""
        return not self.holds_until and self.reset_at is None

    def may_begin(self, at: float) -> bool:
        """Whether the wait for another one's lease is over now; said once."""
        over = bool(self.holds_until) and at >= self.holds_until
        if over:
            self.holds_until = 0.0
        return over

    def begin(self) -> bool:
        """A message was taken; whether it is the first one."""
        is_first = not self.has_begun
        self.has_begun = True
        return is_first


class Tenure:
    """A member's place in its group, at one consumer. Times are by `now`, which is given.

    seconds: of a lease; the server's pin lasts as long. watching_since: from when on we would have seen that somebody
    else became active; NEVER where nobody ever was.

    A lease lasts from the *sending* of the newest request that the server provably has: it renews the pin when it gets
    it, so the pin lasts longer than the lease. There is one request at a time: whatever comes after one that followed
    the end of the one before proves that it arrived.
    """

    def __init__(self, seconds: float, watching_since: float) -> None:
        self.seconds = seconds
        self.term: Term | None = None
        self._watching_since = watching_since
        self._dead = ""
        """The pin of the last term: never taken again."""
        self._sent = self._provable = NEVER

    @property
    def pin(self) -> str:
        """What a request must name; "" for a member that waits."""
        return "" if self.term is None else self.term.pin

    def asked(self, at: float, after_an_end: bool) -> None:
        """A request is about to be sent. after_an_end: nothing can come any more that answers the one before."""
        self._sent = at
        if after_an_end:
            self._provable = at

    def answered(self) -> None:
        """The server says something about the newest request: it has it."""
        self._provable = self._sent
        self._prolong()

    def given(self, pin: str, at: float) -> Term | None:
        """The term that a message belongs to, which has come with this pin; None: it is not for us, not any more."""
        if not pin or pin == self._dead:
            return None
        term = self.term
        if term is None or term.pin != pin:
            self.end()
            may_begin = self._watching_since + self.seconds
            term = self.term = Term(pin, self._provable + self.seconds, may_begin if may_begin > at else 0.0)
        self._prolong()
        if term.lease.ended:
            self.end()
            return None
        return term

    def look(self) -> bool:
        """End the term if its lease is over; whether it was."""
        over = self.term is not None and self.term.lease.ended
        if over:
            self.end()
        return over

    def end(self) -> None:
        """We are active no more, and nothing else is started. Its pin is dead."""
        if self.term is not None:
            self.term.lease.end()
            self._dead, self.term = self.term.pin, None

    def interrupted(self, at: float) -> None:
        """What the server decided up to now may have escaped us: another one may be active, on an older pin."""
        self.end()
        self._watching_since = at

    def may_take_over(self, at: float) -> bool:
        """Whether any lease is over that could have been given without our seeing it."""
        return at - self._watching_since >= self.seconds

    def _prolong(self) -> None:
        if self.term is not None and not self.term.lease.ended:
            self.term.lease.until = max(self.term.lease.until, self._provable + self.seconds)
