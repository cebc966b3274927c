"""What a session offers for publishing, and where it puts its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .records import Confirmation, Record


class PublishingPort(Protocol):
    """Takes records and sends them, in order, until it is retired.

    Only the bus's sender thread calls `publish`; `retire` comes from another one. A port keeps nothing for
    the next session: the bus knows what is unanswered.
    """

    def publish(self, records: Sequence[Record]) -> int:
        """Take records in the order of their numbers; never blocks. How many were taken.

        Fewer than all: the port is retired or its link is lost, the rest was given to no client, and no
        later record will be taken. A record that is refused for good counts as taken, and `Answers.failed`
        says so; that may happen inside this call.
        """

    def retire(self, patience: float = 0.0) -> None:
        """Take and send nothing more. Any thread; idempotent; over within `patience` seconds and a moment.

        What is unanswered may have been stored: while answers go on coming, up to `patience` seconds are
        spent on those that are due. Afterwards the port may still say that something was sent or stored,
        which is true whoever has the record by now, but nothing of failures.
        """


class Publishes(Protocol):
    """The part of a session that publishing needs."""

    @property
    def publisher(self) -> PublishingPort:
        """Where records go."""

    def abandon(self, patience: float = 0.0) -> None:
        """Retire the publisher, and stop using the link for anything else."""


class Answers(Protocol):
    """Where a port puts its answers. All methods are thread-safe and never block.

    The first answer to a record is the one that counts; others are ignored.
    """

    @property
    def origin(self) -> str:
        """The first part of minted ids; the id of a record without one is `f"{origin}-{number:012d}"`."""

    def sent(self, records: Sequence[Record]) -> None:
        """The broker has read these, and stores nothing (`confirmed=False`)."""

    def stored(self, records: Sequence[Record]) -> None:
        """The broker has stored these, and nobody waits for where."""

    def confirmed(self, record: Record, partition: int | str, offset: int | None, duplicate: bool = False) -> None:
        """The broker has stored this one."""

    def all_confirmed(self, confirmations: Sequence[Confirmation]) -> None:
        """The broker has stored these: what `confirmed` says, many at once."""

    def returned(self, record: Record, cause: str) -> None:
        """Each sending of this one was answered by a refusal that stored nothing: as if it had never been given.

        Whoever waits may take it back until it is `given` again.
        """

    def delayed(self, record: Record, cause: str) -> None:
        """This one has no answer yet, and why; it may be stored."""

    def given(self, record: Record) -> bool:
        """One that was returned is about to be sent again; False: it was taken back, and is not to be sent."""

    def failed(self, record: Record, error: Exception) -> None:
        """This one is answered with an error: a PublishError, or made one of "unknown"."""
