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
        self._counted = (0, 0, 0)
        """As long as this many came in and none is larger, so many may wait before bytes are counted again."""

    @property
    def is_there(self) -> bool:
        """Whether another record is taken now."""
        inbox, ledger = self._inbox, self._ledger
        waiting = len(inbox.records)
        if len(ledger.records) + waiting >= self._max_records and self.in_flight >= self._max_records:
            return False
        if ledger.bytes + inbox.largest * waiting < self._max_bytes * 3 // 4:
            return True
        now = ledger.entered, inbox.largest
        if self._counted[:2] == now and waiting < self._counted[2]:
            return True
        room = self._max_bytes - self.in_flight_bytes
        self._counted = (*now, waiting + room // inbox.largest)
        return room > 0

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
