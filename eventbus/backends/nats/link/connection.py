"""One live link: its reader, its timer, requests and pings. It is used once and ends once."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Protocol

from attrs import frozen

from .... import log
from ....errors import NotConnectedError
from ....threads import Deadline, Pauses, StopToken, join_all, spawn
from . import wire
from .dialing import Link
from .interests import Answered, Interests, refused_subject
from .requests import Forbidden, NoAnswer, Reply, Waiting
from .timer import Timer
from .transport import transport_of
from .writer import Writer

logger = log.get(__name__)

_LOOK_EVERY = 0.02
"""Seconds between looks at a stop token."""
_SUB_AGAIN = Pauses(first=1.0, factor=1.2, longest=10.0)
"""Before the server is asked again for an inbox that it has refused, or taken away."""
_NOT_FATAL = ("permissions violation", "invalid subject", "invalid publish subject", "maximum subscriptions exceeded")


class Batch(Protocol):
    """Collects messages while the reader parses; `flush` runs on the reader thread once per read."""

    def flush(self) -> None:
        """Hand on what was collected."""


@frozen(kw_only=True)
class Hooks:
    """What a connection tells its session. All are called on the reader thread (ended: once) and never block.

    said(text): a -ERR that is not the end. info(info): a new INFO. ended(cause): the link is gone.
    """

    said: Callable[[str], None]
    info: Callable[[Mapping[str, Any]], None]
    ended: Callable[[BaseException], None]


class Connection:
    """One live link, and what runs it. All methods are for any thread.

    Threads: `eventbus.<bus>.nats-reader`, `-writer` and `-timer`.
    """

    def __init__(self, link: Link, bus: str, hooks: Hooks, inbox_prefix: str = "_INBOX") -> None:
        self.info: dict[str, Any] = dict(link.info)
        self.lost: BaseException | None = None
        self.ended = threading.Event()
        self.dirty: list[Batch] = []
        """Batches that the current read has filled. Reader thread only."""
        self.inbox_prefix = inbox_prefix
        self.inbox = f"{inbox_prefix}.{secrets.token_hex(11)}"
        self.timer = Timer()
        self._received = link.received
        self._bus = bus
        self._hooks = hooks
        self._transport = transport_of(link.sock)
        self.writer = Writer(self._transport, self.end)
        self._interests = Interests(self.writer)
        self._parser = wire.Parser(self._interests.routes, self._control)
        self._next_request = count(1).__next__
        self._requests: dict[str, Waiting] = {}
        self._pings: set[Waiting] = set()
        self._pings_out = 0
        self._cause: BaseException | None = None
        self._said = ""
        self._refused_inboxes = 0
        self._shared_ping: Waiting | None = None
        self._threads: list[threading.Thread] = []

    def start(self, ping_interval: float, max_pings_out: int) -> None:
        """Start the threads, and the watch that ends a link on which PINGs go unanswered."""
        self.subscribe(f"{self.inbox}.r.*", _Replies(self))
        self.timer.every(ping_interval, lambda: self._watch(max_pings_out))
        name = f"eventbus.{self._bus}.nats-"
        self._threads = [
            spawn(f"{name}reader", self._read),
            spawn(f"{name}writer", self._guarded, self.writer.run),
            spawn(f"{name}timer", self._guarded, self.timer.run),
        ]

    def end(self, cause: BaseException) -> None:
        """Shut the link down; the first cause counts. The reader does the rest."""
        if self._cause is None:
            self._cause = cause
        self._transport.shutdown()

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the link and wait for its threads; names those that did not end."""
        self.end(NotConnectedError("the connection was closed"))
        return join_all(self._threads, timeout)

    def subscribe(self, subject: str, route: wire.Route, queue: str = "", answered: Answered | None = None) -> int:
        """Send SUB; the messages go to the route. Returns the sid. `answered(text)`: see `Answered`."""
        return self._interests.add(subject, route, queue, answered)

    def unsubscribe(self, *sids: int) -> None:
        """Send UNSUB; what is on its way is dropped once `forget` was called."""
        self.writer.write(b"".join(map(wire.unsub, sids)))

    def forget(self, *sids: int) -> None:
        """Take the routes away."""
        self._interests.forget(sids)
        self._parser.forget()

    def request(self, subject: str, payload: bytes, timeout: float, stop: StopToken | None = None) -> Reply:
        """One round trip; NoAnswer, NoResponders, NotConnectedError, or Stopped."""
        token, waiting = str(self._next_request()), Waiting(subject)
        try:
            self._ask(token, waiting, payload)
            self._wait(waiting, timeout, stop, subject)
        finally:
            self.forget_request(token)
        return waiting.result()

    def ask(self, subject: str, payload: bytes, told: Callable[[Waiting], object]) -> str:
        """Send a request, and have `told(waiting)` called on the reader thread with its answer, or its failure.

        NotConnectedError: the link is gone. Returns what to give to `forget_request`, which ends the wait.
        """
        token = str(self._next_request())
        try:
            self._ask(token, Waiting(subject, told), payload)
        except BaseException:
            self.forget_request(token)
            raise
        return token

    def forget_request(self, token: str) -> None:
        """Nobody waits for this answer any more."""
        self._requests.pop(token, None)

    def _ask(self, token: str, waiting: Waiting, payload: bytes) -> None:
        frame = wire.pub(waiting.subject, payload, f"{self.inbox}.r.{token}")
        self._requests[token] = waiting
        self._check_lost()
        self.writer.write(frame)

    def ping(self, timeout: float, stop: StopToken | None = None) -> None:
        """One PING and its PONG; NoAnswer, NotConnectedError, or Stopped.

        Calls on a slow link wait for the same PING: they do not pile up.
        """
        waiting = self._shared_ping
        if waiting is None or waiting.done:
            self._shared_ping = waiting = Waiting()
            self._send_ping(waiting)
        self._await_pong(waiting, timeout, stop)

    def barrier(self, timeout: float) -> None:
        """Wait until the server has read all that was sent before, and what it answered has been seen; as `ping`.

        A PING of its own: one that somebody else has sent may be before what is waited for.
        """
        waiting = Waiting()
        self._send_ping(waiting)
        self._await_pong(waiting, timeout, None)

    def _send_ping(self, waiting: Waiting) -> None:
        self._pings.add(waiting)
        self._check_lost()
        self.writer.ping(waiting.answer)

    def _await_pong(self, waiting: Waiting, timeout: float, stop: StopToken | None) -> None:
        try:
            self._wait(waiting, timeout, stop, "PING")
        finally:
            if waiting.done:
                self._pings.discard(waiting)

    def _wait(self, waiting: Waiting, timeout: float, stop: StopToken | None, what: str) -> None:
        deadline = Deadline(timeout)
        slice_ = threading.TIMEOUT_MAX if stop is None else _LOOK_EVERY
        while not waiting.wait(min(slice_, deadline.remaining())):
            if stop is not None:
                stop.check()
            if deadline.over:
                raise NoAnswer(f"no answer to {what} within {timeout:.3g} s{self.hint()}")

    def hint(self) -> str:
        """What the server said last, for the end of an error's text; "" if it said nothing."""
        return f"; the server said: {self._said}" if self._said else ""

    def _check_lost(self) -> None:
        if self.lost is not None:
            raise NotConnectedError(str(self.lost)) from self.lost

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:
            logger.exception("a thread of the connection failed")
            self.end(error)
            raise

    def _read(self) -> None:
        cause: BaseException = NotConnectedError("the server closed the connection")
        try:
            self._read_on()
        except OSError as error:
            cause = error
        except wire.ProtocolError as error:
            logger.error("the server breaks the protocol: %s", error)
            cause = error
        except BaseException as error:
            logger.exception("the reader failed")
            cause = error
        self._finish(self._cause or cause)

    def _read_on(self) -> None:
        receive, feed, dirty = self._transport.receive, self._parser.feed, self.dirty
        data = self._received or receive()
        self._received = b""
        while data:
            feed(data)
            if dirty:
                self._dispatch()
            data = receive()

    def _dispatch(self) -> None:
        dirty = self.dirty
        for batch in dirty:
            batch.flush()
        dirty.clear()

    def _finish(self, cause: BaseException) -> None:
        """The end of the link, on the reader thread: nobody is left waiting, the socket is closed once."""
        if not isinstance(cause, NotConnectedError):
            described = NotConnectedError(f"the connection was lost: {cause or type(cause).__name__}{self.hint()}")
            described.__cause__ = cause
            cause = described
        self.lost = cause
        self._transport.shutdown()
        self.timer.stop()
        with self.writer.lock:
            self.writer.close()
            self._transport.close()
            self.writer.pongs.clear()
        for waiting in [*self._requests.values(), *self._pings.copy()]:
            waiting.fail(cause)
        self.ended.set()
        self._hooks.ended(cause)

    def _control(self, line: bytes) -> None:
        if line == b"PONG":
            self._pong()
        elif line == b"PING":
            self.writer.write(wire.PONG)
        elif line[:5] == b"INFO ":
            self._new_info(line[5:])
        elif line[:4] == b"-ERR":
            self._error(line[4:].decode("utf-8", "replace").strip("' \t"))
        elif line[:3] != b"+OK":
            raise wire.ProtocolError(f"unexpected {line!r:.80}")

    def _pong(self) -> None:
        if self.dirty:
            # Messages in front of a PONG are handed on before anybody learns of it.
            self._dispatch()
        with self.writer.lock:
            if not self.writer.pongs:
                raise wire.ProtocolError("a PONG that nobody asked for")
            on_pong = self.writer.pongs.popleft()
        on_pong()

    def _new_info(self, text: bytes) -> None:
        try:
            info = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise wire.ProtocolError(f"INFO is no JSON: {text!r:.80}") from error
        if not isinstance(info, dict):
            raise wire.ProtocolError(f"INFO is no JSON object: {text!r:.80}")
        self.info.update(info)
        self._hooks.info(info)

    @property
    def max_payload(self) -> int:
        """Bytes that a message may have, headers included."""
        most = self.info.get("max_payload")
        return most if isinstance(most, int) and most > 0 else 1024 * 1024

    def _error(self, text: str) -> None:
        self._said = text
        if not text.lower().startswith(_NOT_FATAL):
            logger.warning("the server said: %s", text)
            if self._cause is None:
                self._cause = NotConnectedError(f"the server ended the connection: {text}")
            return
        if self._interests.refused(text):
            return
        if inbox := refused_subject(text, "subscription"):
            self._refused_inboxes += 1
            self.timer.after(_SUB_AGAIN.after(self._refused_inboxes), lambda: self._interests.again(inbox))
        subject = refused_subject(text, "publish")
        asking = [waiting for waiting in list(self._requests.values()) if waiting.subject == subject]
        for waiting in asking:
            waiting.fail(Forbidden(text))
        if not asking:  # else whoever asked decides what that means
            self._hooks.said(text)

    def _watch(self, max_pings_out: int) -> None:
        if self._pings_out >= max_pings_out:
            self.end(NotConnectedError(f"the server is silent: {self._pings_out} PINGs unanswered"))
            return
        self._pings_out += 1
        self.writer.ping(self._seen)

    def _seen(self) -> None:
        self._pings_out = 0


class _Replies:
    """Where the answers to requests arrive."""

    cacheable = False

    def __init__(self, connection: Connection) -> None:
        self._requests = connection._requests

    def adder(self, topic: str) -> wire.Add:
        """All answers go to `add`, whatever their topic: its last part names the request."""
        return self.add

    def add(self, topic: str, reply: bytes | None, block: bytes | None, payload: bytes) -> None:
        """Give the answer to who waits; a late one goes nowhere."""
        waiting = self._requests.get(topic.rpartition(".")[2])
        if waiting is not None:
            waiting.answer(Reply(block, payload))
