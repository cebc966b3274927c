"""What callers leave for the sender: single steps, no lock, so that a signal may come at any of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..threads import Alarm
from .records import Extras, Record, payload_of

SMALL = 512
"""Payload bytes of a message whose size needs no thought."""
Request = Callable[[], object]
"""Work for the sender's thread."""


class Inbox:
    """Accepted records that the sender has not looked at, and what else it is asked to do.

    Whoever appends looks at `idle` afterwards; the sender sets it before it looks a last time. So either
    the sender sees what was appended, or it is woken.
    """

    def __init__(self) -> None:
        self.records: deque[Record] = deque()
        self.withdrawn: deque[int] = deque()
        """Numbers of records whose claim was taken: they are in `records` or with the sender."""
        self.requests: deque[Request] = deque()
        self.urgent: deque[Request] = deque()
        """Requests that are not to wait for the records."""
        self.room = 0
        """As long as fewer records wait here, one of at most `SMALL` bytes is taken without another look. 0: look."""
        self.topics: set[str] = set()
        """Topics that were checked."""
        self.keys: dict[str, Extras] = {}
        """Keys that were checked, and what a message has that has nothing else beside: of one key the same for all."""
        self.largest = SMALL
        """No payload in `records` is larger, in bytes."""
        self.idle = False
        self._alarm = Alarm()
        self.wake = self._alarm.set
        """End the sender's sleep."""

    def put(self, record: Record) -> None:
        """Accept a record. Never blocks; any thread, signal handlers included."""
        size = len(payload_of(record))
        if size > SMALL:
            self.room = 0  # until the sender has counted it
            self.largest = max(self.largest, size)
        self.records.append(record)
        if self.idle:
            self.wake()

    def take_back(self, number: int) -> None:
        """The record with this number is not to be sent: its claim was taken. Any thread."""
        self.withdrawn.append(number)
        self.wake()

    def ask(self, request: Request) -> None:
        """Have something done on the sender's thread, after all that was accepted so far was taken in."""
        self.requests.append(request)
        self.wake()

    def ask_at_once(self, request: Request) -> None:
        """Have something done on the sender's thread as soon as it can, whatever waits here."""
        self.urgent.append(request)
        self.wake()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.records or self.urgent or self.requests or self.withdrawn)

    def wait(self, timeout: float) -> None:
        """The sender: sleep up to `timeout` seconds until there is something."""
        self.idle = True
        if self.is_empty:
            self._alarm.wait(timeout)
        self.idle = False
