"""Publishes that the account may not make: which ones, where the server only says that one of a topic was.

It says so at once, while streams confirm what was permitted later, if at all. So what is on the wire when a permission
is taken away, or given back, cannot be told apart by its order.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from ....publishing.records import Record, number_of
from ..link.writer import Writer
from .on_wire import OnWire


@define(eq=False)
class _Denial:
    """So many (count) of these records of a topic were denied, or more while it is not whole."""

    topic: str
    text: str
    records: dict[int, Record]
    count: int = 1
    is_whole: bool = False


class Denials:
    """Counts what is denied, up to the PONG for which it is all; the rest of what was sent before has answers then.

    known(): there may be news of `settle`. Not locked: its owner does that.
    """

    def __init__(self, on_wire: OnWire, writer: Writer, known: Callable[[], object]) -> None:
        self._on_wire = on_wire
        self._writer = writer
        self._known = known
        self._denials: list[_Denial] = []

    def __bool__(self) -> bool:
        return bool(self._denials)

    def note(self, topic: str, text: str) -> None:
        """The server has denied one with this topic."""
        same = [one for one in self._denials if one.topic == topic]
        if same and not same[-1].is_whole:
            same[-1].count += 1
            return
        sent = {number_of(record): record for record, _ in self._on_wire.sent_of({topic})}
        denial = _Denial(
            topic, text, {number: sent[number] for number in sent if not any(number in one.records for one in same)}
        )
        self._denials.append(denial)
        self._writer.ask(lambda: self._is_whole(denial))

    def _is_whole(self, denial: _Denial) -> None:
        denial.is_whole = True
        self._known()

    def settle(self) -> list[tuple[Record, str]]:
        """Those of which it is known by now that they were denied, each with what the server said."""
        settled = []
        for denial in self._denials.copy():
            left = [record for number, record in denial.records.items() if number in self._on_wire]
            if denial.is_whole and len(left) <= denial.count:
                self._denials.remove(denial)
                settled += [(record, denial.text) for record in left]
        return settled

    def drop(self, number: int) -> None:
        """This record is taken off the wire without an answer: what is left cannot be told apart any more."""
        self._denials = [one for one in self._denials if number not in one.records]
