"""What keeps a subscription from getting on, and may pass: it is shown as long as it lasts, and no longer."""

from __future__ import annotations

from ....consuming.attachment import Attachment
from ....errors import SubscribeError


class Hindrance:
    """A consumer that is paused, or acknowledgements that are denied. Looks at consumers tell when that is over.

    What is denied the server says before it answers a look that was sent behind it: acknowledgements of which it has
    said nothing by then are taken.
    """

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._denial: SubscribeError | None = None
        self._is_news = False
        self._acknowledged = self._acknowledged_before = False
        self._is_shown = False

    def denied(self, error: SubscribeError) -> None:
        """An acknowledgement is not taken. Reader thread."""
        self._denial, self._is_news, self._is_shown = error, True, True
        self._attachment.hindered(error)

    def acknowledged(self) -> None:
        """Something is acknowledged. Any thread."""
        self._acknowledged = True

    def look_begins(self) -> None:
        """The server is about to be asked how the consumers are."""
        self._acknowledged_before, self._acknowledged = self._acknowledged, False

    def looked(self, paused: str | None, is_idle: bool, is_answered: bool) -> None:
        """The look is over. paused: a consumer that is. is_idle: nothing is known that is not acknowledged.

        is_answered: it was; else the account may not ask.
        """
        if self._is_news:
            self._is_news = self._acknowledged = False
        elif is_idle or (is_answered and self._acknowledged_before):
            self._denial = None
        error = self._denial
        if paused is not None:
            error = SubscribeError(f"consumer {paused!r} is paused by an operator")
        if self._is_shown or error is not None:
            self._attachment.hindered(error)
        self._is_shown = error is not None
