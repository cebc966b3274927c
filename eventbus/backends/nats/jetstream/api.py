"""The JetStream API: calls that are asked again while a cluster makes up its mind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .... import log
from ....errors import ConnectFailedError, NotConnectedError
from ....threads import Deadline, StopToken
from ..link.connection import Connection, Forbidden, NoAnswer, NoResponders

logger = log.get(__name__)

SECOND = 1_000_000_000
"""Times in the API are nanoseconds."""

_TEMPORARY = {10004, 10007, 10008, 10009}
_DISABLED = {10039, 10076}
_PAUSE = 0.05
_ONE_TRY = 1.0

STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
CONSUMER_EXISTS = 10148
STREAM_EXISTS = 10058
SUBJECTS_OVERLAP = 10065
NO_PEERS = {10005, 10074}


class ApiError(Exception):
    """JetStream answered with an error."""

    def __init__(self, code: int, number: int, description: str) -> None:
        super().__init__(f"{description} ({number})")
        self.code = code
        self.number = number


class JetStreamApi:
    """Blocking calls over one connection. Not for the reader or timer thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def call(
        self,
        operation: str,
        request: Mapping[str, Any] | None,
        deadline: Deadline,
        stop: StopToken | None = None,
    ) -> dict[str, Any]:
        """One call; ApiError, or NotConnectedError when there was no answer until the deadline."""
        subject = f"$JS.API.{operation}"
        payload = b"" if request is None else json.dumps(request).encode()
        while True:
            try:
                return self._once(subject, payload, deadline, stop)
            except NoAnswer:
                if deadline.remaining() <= _PAUSE:
                    raise
            except ApiError as error:
                if error.number not in _TEMPORARY:
                    raise
                if deadline.remaining() <= _PAUSE:  # it passes, only not in time: nothing is refused
                    raise NotConnectedError(f"{subject}: {error}") from error
            if stop is not None:
                stop.check()
            if self._connection.ended.wait(_PAUSE):
                raise NotConnectedError(str(self._connection.lost))

    def _once(self, subject: str, payload: bytes, deadline: Deadline, stop: StopToken | None) -> dict[str, Any]:
        # A leader that dies takes the question with it: it is asked again well before the deadline.
        reply = self._connection.request(subject, payload, min(_ONE_TRY, deadline.remaining()), stop)
        try:
            answer = json.loads(reply.payload)
        except (ValueError, RecursionError) as error:
            raise NoAnswer(f"{subject} is answered by something that is not JetStream") from error
        if not isinstance(answer, dict):
            raise NoAnswer(f"{subject} is answered by something that is not JetStream")
        refusal = answer.get("error")
        if isinstance(refusal, dict):
            code, number = int(refusal.get("code") or 0), int(refusal.get("err_code") or 0)
            raise ApiError(code, number, str(refusal.get("description")))
        return answer

    def see_consumer(self, stream: str, consumer: str, deadline: Deadline) -> None:
        """See that there is a consumer that we may pull from, where we may not ask for it; ApiError, Forbidden.

        By a request that is no request: it is answered, and takes no message.
        """
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        try:
            self._connection.request(subject, b"{", min(_ONE_TRY, deadline.remaining()), None)
        except NoResponders as error:
            raise ApiError(
                404, CONSUMER_NOT_FOUND, f"consumer {consumer!r} not found, and it may not be made"
            ) from error

    def names(self, subject: str, deadline: Deadline) -> Iterator[str]:
        """The streams with a subject that overlaps this one."""
        offset = 0
        while True:
            answer = self.call("STREAM.NAMES", {"subject": subject, "offset": offset}, deadline)
            page = [name for name in answer.get("streams") or () if isinstance(name, str)]
            yield from page
            offset += len(page)
            if not page or offset >= int(answer.get("total") or 0):
                return

    def prove(self, deadline: Deadline, stop: StopToken) -> None:
        """Ask for the account's JetStream while a cluster elects; ConnectFailedError, Stopped."""
        info = self._connection.info
        alone = not info.get("jetstream") and not info.get("cluster")
        try:
            if alone:
                self._once("$JS.API.INFO", b"", deadline, stop)
            else:
                self.call("INFO", None, deadline, stop)
        except ApiError as error:
            text = f"JetStream cannot be used: {error}"
            if error.number in _DISABLED:
                text = f"JetStream is not enabled for this account: {error}"
            raise ConnectFailedError(text, server_spoke=True) from error
        except Forbidden:
            return  # an answer: we may not ask that, and what we may do will show
        except NoResponders as error:
            text = "JetStream is not enabled on the server; enable it, or set jetstream=False for core NATS"
            if not alone:
                text = "JetStream does not answer: no leader, or not enabled in the cluster"
            raise ConnectFailedError(text, server_spoke=True) from error
        except NotConnectedError as error:
            raise ConnectFailedError(f"JetStream does not answer: {error}", server_spoke=True) from error

    def info(self, deadline: Deadline, stop: StopToken) -> None:
        """Ask once for the account's JetStream; NotConnectedError says what is wrong, Stopped."""
        try:
            self._once("$JS.API.INFO", b"", deadline, stop)
        except ApiError as error:
            raise NotConnectedError(f"JetStream is not available: {error}") from error
        except Forbidden as error:
            logger.debug("the probe may not ask JetStream itself: %s", error)
