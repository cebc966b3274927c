"""How many publishes were answered, and how."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import PublishError, PublishNotSentError, PublishRejectedError, PublishUnknownError
from .records import Record


class Counts:
    """Written by threads of ours alone, under the ledger's lock; read by anybody."""

    def __init__(self) -> None:
        self.confirmed = self.rejected = self.unknown = self.not_sent = 0

    def note_confirmed(self, taken: Sequence[Record]) -> None:
        """The broker has these."""
        self.confirmed += len(taken)

    def note_not_sent(self, taken: Sequence[Record]) -> None:
        """These were taken back."""
        self.not_sent += len(taken)

    def note_failed(self, taken: Sequence[Record], verdict: PublishError) -> None:
        """These failed so."""
        self.rejected += len(taken) * isinstance(verdict, PublishRejectedError)
        self.unknown += len(taken) * isinstance(verdict, PublishUnknownError)
        self.not_sent += len(taken) * isinstance(verdict, PublishNotSentError)
