"""What an ordered pull asks the server for: messages, one request at a time, and calls about the consumer."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .... import log
from ....errors import NotConnectedError
from ..link import wire
from ..link.connection import Connection
from ..link.requests import Forbidden, Waiting
from .api import SECOND
from .asking import ApiError, Call
from .durables import Target
from .pulling import FILLED, is_plain_end

logger = log.get(__name__)

PARTS = 3
"""Of a lease that a request lasts: two may be lost before the lease is."""
SILENCE = 1.0
"""Seconds without a sign of a request, after which it is taken for lost."""
KEEP = 1
"""Bytes that no message fits in: a request with this limit keeps the pin, and brings nothing."""


class OneRequest:
    """The one request that is under way, if any. Not locked: its owner does that. Times are by `ordered_terms.now`.

    lasts: seconds. number: of the request, in its inbox. keeps: it is there for the pin's sake alone. is_too_large:
    whether the next message is larger than what was asked for. is_sure: whether none that was given up can be answered
    any more.
    """

    def __init__(self, target: Target, at: float) -> None:
        assert target.pinning is not None
        self._group = target.pinning.group
        lasts = target.pinning.lease / PARTS
        self.lasts = min(lasts, target.max_expires or lasts)
        self.number = 0
        self.is_out = self.keeps = self.is_too_large = False
        self.is_sure = True
        self.sent = self._heard = at
        self._left = self._most = 0

    def send(self, at: float, size: int, most: int, pin: str, after_an_end: bool) -> bytes:
        """Note that it is sent, and what with. most: bytes, 0 for any. after_an_end: of the one before."""
        after_an_end = after_an_end or not self.number  # nothing can answer what was never asked
        self.number += 1
        self.is_out, self.keeps, self.sent = True, most == KEEP, at
        self._left, self._most = size, most
        self.is_too_large = self.is_too_large and self.keeps
        self.is_sure = self.is_sure and after_an_end
        request: dict[str, object] = {
            "batch": size,
            "expires": int(self.lasts * SECOND),
            "idle_heartbeat": int(self.lasts * 0.4 * SECOND),
            "group": self._group,
        }
        if pin:
            request["id"] = pin
        if most:
            request["max_bytes"] = most
        return json.dumps(request).encode()

    def arrived(self, at: float) -> bool:
        """A message has come; whether the request ends with it."""
        self._heard = at
        self._left -= 1
        if self._left <= 0:
            self.is_out = False
        return self._left <= 0

    def heard(self, at: float, code: int, text: str, block: bytes | None) -> bool:
        """The server says something about it; whether that proves that the consumer has it."""
        self._heard = at
        proves = code == 100 or is_plain_end(code, text)
        self.is_sure = self.is_sure or proves
        if code != 100:
            self.is_out = False
        if FILLED in text.lower() and not self.keeps:
            # For the whole request: nothing has come of it.
            self.is_too_large = wire.parse_headers(block or b"").get("Nats-Pending-Bytes", "") == str(self._most)
        return proves

    def is_silent(self, at: float) -> bool:
        """Whether it must be taken for lost."""
        return self.is_out and at - max(self._heard, self.sent) > max(SILENCE, 2 * self.lasts)

    def is_due(self, at: float) -> bool:
        """Whether the pin wants the next one."""
        return not self.is_out and at - self.sent >= self.lasts


class ConsumerCalls:
    """Calls about one consumer; of each kind one answer is waited for. Any thread.

    forbidden(text): the server does not let us ask.
    """

    def __init__(self, connection: Connection, target: Target, forbidden: Callable[[str], object]) -> None:
        assert target.pinning is not None
        self._connection = connection
        self._api = target.subject.partition(".CONSUMER.MSG.NEXT.")[0]
        self._name = f"{target.stream}.{target.consumer}"
        self._group = target.pinning.group
        self._forbidden = forbidden
        self._tokens: dict[str, str] = {}

    def reset(self, told: Callable[[], object]) -> None:
        """Have it deliver again whatever is not acknowledged; `told()` on the reader thread once it does."""
        self._call("RESET", lambda found: told())

    def info(self, told: Callable[[dict[str, Any]], object]) -> None:
        """Ask how it stands; `told(answer)` on the reader thread, if it is answered."""
        self._call("INFO", told)

    def unpin(self) -> None:
        """Have it pin another member."""
        self._call("UNPIN", lambda found: None, json.dumps({"group": self._group}).encode())

    def _call(self, kind: str, told: Callable[[dict[str, Any]], object], payload: bytes = b"") -> None:
        self._connection.forget_request(self._tokens.pop(kind, ""))

        def answered(waiting: Waiting) -> None:
            self._connection.forget_request(self._tokens.get(kind, ""))
            found = self._read(waiting)
            if found is not None:
                told(found)

        with suppress(NotConnectedError):
            subject = f"{self._api}.CONSUMER.{kind}.{self._name}"
            self._tokens[kind] = self._connection.ask(subject, payload, answered)

    def _read(self, waiting: Waiting) -> dict[str, Any] | None:
        try:
            return Call(waiting.subject).read(waiting.result())
        except Forbidden as error:
            self._forbidden(str(error))
        except (NotConnectedError, ApiError) as error:
            logger.debug("%s: %s", waiting.subject, error)
        return None
