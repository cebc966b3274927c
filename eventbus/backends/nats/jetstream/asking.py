"""Questions to JetStream that take several calls each, many of them under way at a time.

A question is a generator: it yields calls and is sent their answers. So it reads like a function that calls and waits,
while the calls of all questions share their round trips.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Generator, Hashable, Mapping
from queue import Empty
from typing import Any, Generic, TypeVar

from attrs import define, field, frozen

from ....errors import NotConnectedError
from ....threads import Deadline, Mailbox
from ..link.connection import Connection
from ..link.requests import Forbidden, NoAnswer, NoResponders, Reply, Waiting

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
JsonObject = dict[str, Any]

AT_ONCE = 256
"""Questions that are under way at a time."""
PAUSE = 0.05
"""Seconds before a call is made again that got no useful answer."""
ONE_TRY = 1.0
"""Seconds for which a call waits while nothing is answered at all: a leader that dies takes the question with it. Then
it is made again; each further time it waits for twice as long."""
_TEMPORARY = {10004, 10007, 10008, 10009, 10041, 10075, 10167}


class ApiError(Exception):
    """JetStream answered with an error."""

    def __init__(self, code: int, number: int, description: str) -> None:
        super().__init__(f"{description} ({number})")
        self.code = code
        self.number = number

    @property
    def passes(self) -> bool:
        """Whether it is the cluster that is not ready: the same call will be answered."""
        return self.number in _TEMPORARY or self.code == 429


@frozen
class Call:
    """One call. is_json: its answer is an object; else any answer will do, and nobody at all is one, too, unless who
    answers was just made (is_new): the other servers of a cluster hear of it a moment later."""

    subject: str
    payload: bytes = b""
    is_json: bool = True
    is_new: bool = False

    def read(self, reply: Reply) -> JsonObject:
        """The answer; ApiError, or NoAnswer where somebody else answers than JetStream."""
        if not self.is_json:
            return {}
        try:
            answer = json.loads(reply.payload)
        except (ValueError, RecursionError) as error:
            raise NoAnswer(f"{self.subject} is answered by something that is not JetStream") from error
        if not isinstance(answer, dict):
            raise NoAnswer(f"{self.subject} is answered by something that is not JetStream")
        refusal = answer.get("error")
        if isinstance(refusal, dict):
            code, number = int(refusal.get("code") or 0), int(refusal.get("err_code") or 0)
            raise ApiError(code, number, str(refusal.get("description")))
        return answer


Asking = Generator[Call, JsonObject, T]
"""A question. Where a call fails, ApiError, Forbidden, NoResponders or NotConnectedError is raised at its `yield`."""


@define(eq=False)
class _Task(Generic[K, T]):
    key: K
    question: Asking[T]


@define(eq=False)
class _Sent:
    """A call under way, and the questions that wait for its answer."""

    call: Call
    due: float = 0.0
    began: float = field(factory=time.monotonic)
    patience: float = field(factory=lambda: ONE_TRY)
    cause: Exception | None = None
    tasks: list[_Task[Any, Any]] = field(factory=list)
    tokens: list[str] = field(factory=list)


class Pipeline(Generic[K, T]):
    """Puts questions side by side, on the calling thread. Used once. The same call of several is made once.

    grace: seconds, or twice what the others took, after which those that are left are given up; None: the deadline.
    """

    def __init__(self, connection: Connection, deadline: Deadline, grace: float | None = None) -> None:
        self._connection = connection
        self._deadline = deadline
        self._grace = grace
        self._began = time.monotonic()
        self._told: Mailbox[tuple[_Sent, Waiting]] = Mailbox()
        self._open: dict[Call, _Sent] = {}
        self._heard = time.monotonic()
        self._results: dict[K, T | Exception] = {}
        self._over = float("inf")
        """When those that are left are given up."""

    def run(self, questions: Mapping[K, Asking[T]]) -> dict[K, T | Exception]:
        """What each question returned, or raised. A call without a useful answer in time is a NotConnectedError."""
        waiting = deque(_Task(key, question) for key, question in questions.items())
        try:
            while waiting or self._open:
                while waiting and len(self._open) < AT_ONCE:
                    self._go_on(waiting.popleft())
                if self._open:
                    self._hear()
        finally:
            for sent in self._open.values():
                self._end(sent)
        return self._results

    def _go_on(self, task: _Task[K, T], answer: JsonObject | None = None, error: Exception | None = None) -> None:
        """Take a question to its next call, or to its end."""
        question = task.question
        try:
            call = question.send(answer) if error is None else question.throw(error)  # type: ignore[arg-type]
        except StopIteration as end:
            self._note(task, end.value)
            return
        except Exception as raised:  # the question's own: whoever asked is told
            self._note(task, raised)
            return
        sent = self._open.get(call)
        if sent is None:
            sent = self._open[call] = _Sent(call)
        sent.tasks.append(task)
        if not sent.tokens:
            self._send(sent)

    def _note(self, task: _Task[K, T], result: T | Exception) -> None:
        self._results[task.key] = result
        if self._grace is not None:
            now = time.monotonic()
            self._over = now + max(self._grace, 2 * (now - self._began))

    def _send(self, sent: _Sent) -> None:
        sent.due = time.monotonic() + sent.patience
        try:
            told = self._told.put
            sent.tokens.append(
                self._connection.ask(sent.call.subject, sent.call.payload, lambda waiting: told((sent, waiting)))
            )
        except NotConnectedError as error:
            self._finish(sent, error=error)

    def _hear(self) -> None:
        """Wait for the next answer, or until something is to be sent again."""
        due = min(self._over, *(sent.due for sent in self._open.values()))
        try:
            sent, waiting = self._told.take(max(0.0, min(due - time.monotonic(), self._deadline.remaining())))
        except Empty:
            self._look_at_time()
        else:
            self._heard = time.monotonic()
            if self._open.get(sent.call) is sent:
                self._take(sent, waiting)

    def _take(self, sent: _Sent, waiting: Waiting) -> None:
        try:
            answer = sent.call.read(waiting.result())
        except (Forbidden, NoResponders, NoAnswer, ApiError) as error:
            if not (sent.call.is_json or sent.call.is_new) or not self._passes(sent, error):
                self._finish(sent, error=error)
                return
            sent.cause = error
            sent.due = time.monotonic() + PAUSE
        except NotConnectedError as error:
            self._finish(sent, error=error)
        else:
            self._finish(sent, answer)

    @staticmethod
    def _passes(sent: _Sent, error: Exception) -> bool:
        """Whether the same call may be answered otherwise, soon."""
        if isinstance(error, NoResponders):  # the API is there, or we were not here: but is it for us?
            return time.monotonic() - sent.began < ONE_TRY
        return error.passes if isinstance(error, ApiError) else not isinstance(error, Forbidden)

    def _look_at_time(self) -> None:
        now = time.monotonic()
        for sent in list(self._open.values()):
            if self._deadline.over or now >= self._over:
                self._finish(sent, error=self._too_late(sent))
            elif sent.due <= now:
                if sent.cause is None and now - self._heard < sent.patience:
                    sent.due = self._heard + sent.patience  # the link is busy with the others
                    continue
                sent.patience *= 1 if sent.cause is not None else 2
                sent.cause = None
                self._send(sent)

    def _too_late(self, sent: _Sent) -> NotConnectedError:
        waited = time.monotonic() - self._began
        what = f"no answer to {sent.call.subject} within {waited:.3g} s{self._connection.hint()}"
        if isinstance(sent.cause, ApiError):  # it passes, only not in time: nothing is refused
            what = f"{sent.call.subject}: {sent.cause}"
        error = NotConnectedError(what)
        error.__cause__ = sent.cause
        return error

    def _finish(self, sent: _Sent, answer: JsonObject | None = None, error: Exception | None = None) -> None:
        """The call is answered, or has failed: those that wait for it go on."""
        self._end(sent)
        del self._open[sent.call]
        for task in sent.tasks:
            self._go_on(task, answer, error)

    def _end(self, sent: _Sent) -> None:
        for token in sent.tokens:
            self._connection.forget_request(token)
