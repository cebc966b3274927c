"""The one mechanism by which work goes stale."""

from __future__ import annotations


class Lease:
    """What a broker gave us on one condition; once that is over, what was given under it is not ours any more.

    Of Kafka a partition's assignment, of memory a member's place in its group, of JetStream a hold that is renewed in
    time, across sessions. Under an ended lease no handler is started and nothing is retried: all of it that is not
    finished comes again, in order, to whoever has the next lease. Any thread.
    """

    __slots__ = ("ended",)

    def __init__(self) -> None:
        self.ended = False

    def end(self) -> None:
        """It is over."""
        self.ended = True
