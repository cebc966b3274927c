"""How much is accepted and unanswered, and whether there is room for more: any thread, no lock."""

from __future__ import annotations

from .inbox import Inbox
from .ledger import Ledger
from .records import payload_of


class Room:
    """Figures of what is accepted, recomputed from the records where they could be wrong."""

    def __init__(self, inbox: Inbox, ledger: Ledger, max_records: int, max_bytes: int) -> None:
        self._inbox = inbox
        self._ledger = ledger
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._counted = (0, 0, 0, 0)
        """What waited at the last count and its bytes; what had come in until then and its bytes."""

    @property
    def is_there(self) -> bool:
        """Whether another record is taken now."""
        inbox, ledger = self._inbox, self._ledger
        waiting = len(inbox.records)
        if len(ledger.records) + waiting >= self._max_records and self.in_flight >= self._max_records:
            return False
        if ledger.bytes + inbox.largest * waiting < self._max_bytes * 3 // 4:
            return True
        if ledger.bytes + self._most_bytes(waiting) < self._max_bytes:
            return True
        waiting, entered, entered_bytes = len(inbox.records), ledger.entered, ledger.entered_bytes
        in_flight_bytes = self.in_flight_bytes
        self._counted = waiting, in_flight_bytes - ledger.bytes, entered, entered_bytes
        return in_flight_bytes < self._max_bytes

    @property
    def most_bytes(self) -> int:
        """No more payload bytes than these are in flight."""
        return self._ledger.bytes + self._most_bytes(len(self._inbox.records))

    def _most_bytes(self, waiting: int) -> int:
        """The payload bytes of what waits, at most: by the last count, for a count of 100,000 takes 3 ms."""
        inbox, ledger = self._inbox, self._ledger
        counted, counted_bytes, entered, entered_bytes = self._counted
        gone = ledger.entered - entered
        if ledger.moving or gone > counted:  # or of what came since something is gone, too
            return inbox.largest * waiting
        return counted_bytes - (ledger.entered_bytes - entered_bytes) + inbox.largest * (waiting - counted + gone)

    @property
    def in_flight(self) -> int:
        """Accepted and unanswered, now."""
        inbox, ledger = self._inbox, self._ledger
        for _ in range(3):
            entered, moving = ledger.entered, ledger.moving
            found = len(ledger.records) + len(inbox.records) - len(inbox.withdrawn) - moving
            if entered == ledger.entered and not moving:
                break
        return max(0, found)

    @property
    def in_flight_bytes(self) -> int:
        """Their payload bytes."""
        return self._ledger.bytes + sum(map(len, map(payload_of, self._inbox.records.copy())))
