"""The JetStream API: what a question may ask, and how a session is proven."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from .... import log
from ....errors import ConnectFailedError, NotConnectedError
from ....threads import Deadline, StopToken
from ..link.connection import Connection
from ..link.requests import Forbidden, NoAnswer, NoResponders
from .asking import ONE_TRY, PAUSE, ApiError, Asking, Call, JsonObject, K, Pipeline

logger = log.get(__name__)

T = TypeVar("T")

SECOND = 1_000_000_000
"""Times in the API are nanoseconds."""

IN_TIME = 0.2
"""Seconds before the deadline at which a session that was not proven says why: whoever waits is to hear it."""
_DISABLED = {10039, 10076}

# The numbers of errors, as nats-server's errors.json has them.
STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
CONSUMER_EXISTS = 10148
DELIVERS_ALL_ONLY = 10101
MAX_ACK_PENDING_LIMITED = 10121
STREAM_EXISTS = 10058
SUBJECTS_OVERLAP = 10065
NO_PEERS = {10005, 10074}


class JetStreamApi:
    """Calls over one connection. prefix: of their subjects. Those that block are not for the reader or timer thread."""

    def __init__(self, connection: Connection, prefix: str = "$JS.API") -> None:
        self._connection = connection
        self.prefix = prefix

    def run(self, question: Asking[T], deadline: Deadline) -> T:
        """The answer to one question, blocking; raises what it does."""
        answer = self.run_all({0: question}, deadline)[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run_all(
        self, questions: Mapping[K, Asking[T]], deadline: Deadline, grace: float | None = None
    ) -> dict[K, T | Exception]:
        """The answers to questions that are asked side by side, blocking; of each what it returned, or raised."""
        return Pipeline[K, T](self._connection, deadline, grace).run(questions)

    # -- questions ---------------------------------------------------------------------------------------

    def call(self, operation: str, request: Mapping[str, Any] | None = None) -> Asking[JsonObject]:
        """One call; ApiError, Forbidden, or NotConnectedError when there was no answer in time."""
        answer = yield Call(f"{self.prefix}.{operation}", b"" if request is None else json.dumps(request).encode())
        return answer

    def see_consumer(self, stream: str, consumer: str, is_new: bool = False) -> Asking[None]:
        """See that there is a consumer that we may pull from, where we may not ask for it; ApiError, Forbidden.

        is_new: see `Call`.
        """
        try:
            yield from self.see_right(f"CONSUMER.MSG.NEXT.{stream}.{consumer}", is_new)
        except NoResponders as error:
            raise ApiError(
                404, CONSUMER_NOT_FOUND, f"consumer {consumer!r} not found, and it may not be made"
            ) from error

    def see_right(self, operation: str, is_new: bool = False) -> Asking[None]:
        """See that a call is ours to make; Forbidden, NoResponders.

        By a request that is no request: it is answered, and nothing is done. is_new: see `Call`.
        """
        yield Call(f"{self.prefix}.{operation}", b"{", is_json=False, is_new=is_new)

    def names(self, subject: str) -> Asking[list[str]]:
        """The streams with a subject that overlaps this one."""
        found: list[str] = []
        while True:
            answer = yield from self.call("STREAM.NAMES", {"subject": subject, "offset": len(found)})
            page = [name for name in answer.get("streams") or () if isinstance(name, str)]
            found += page
            if not page or len(found) >= int(answer.get("total") or 0):
                return found

    # -- the session's own -------------------------------------------------------------------------------

    def prove(self, deadline: Deadline, stop: StopToken) -> None:
        """Ask for the account's JetStream while a cluster elects; ConnectFailedError, Stopped.

        What may end any moment is no answer of the server: whoever connects goes on asking, without a pause.
        """
        info = self._connection.info
        alone = not info.get("jetstream") and not info.get("cluster")
        try:
            self._ask_for_info(deadline, stop, patiently=not alone)
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
                text = f"JetStream does not answer on {self.prefix}: no leader, not enabled, or not its name here"
            raise ConnectFailedError(text, server_spoke=alone) from error
        except NotConnectedError as error:
            raise ConnectFailedError(f"JetStream does not answer: {error}") from error

    def info(self, deadline: Deadline, stop: StopToken) -> None:
        """Ask once for the account's JetStream; NotConnectedError says what is wrong, Stopped."""
        try:
            self._ask_for_info(deadline, stop, patiently=False)
        except ApiError as error:
            raise NotConnectedError(f"JetStream is not available: {error}") from error
        except Forbidden as error:
            logger.debug("the probe may not ask JetStream itself: %s", error)

    def _ask_for_info(self, deadline: Deadline, stop: StopToken, patiently: bool) -> None:
        """Interruptible. patiently: again and again, for what passes."""
        call = Call(f"{self.prefix}.INFO")
        while True:
            try:
                call.read(self._connection.request(call.subject, b"", min(ONE_TRY, deadline.remaining()), stop))
                return
            except NoAnswer:
                if not patiently or deadline.remaining() <= IN_TIME:
                    raise
            except ApiError as error:
                if not patiently or not error.passes:
                    raise
                if deadline.remaining() <= IN_TIME:
                    raise NotConnectedError(str(error)) from error
            stop.check()
            if self._connection.ended.wait(PAUSE):
                raise NotConnectedError(str(self._connection.lost))
