"""The bus: wires publishing, consuming, recovery and a backend behind one face.

The threads of a bus, the lock order and the close order stand in one place: docs/architecture.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import datetime
from types import EllipsisType
from typing import Any, NoReturn, TypeVar
from weakref import WeakSet

from . import log
from .bus_dead_letters import DeadLetterCalls
from .bus_status import StatusCalls
from .bus_waiting import WaitCalls
from .callables import refuse_bare
from .config import names_of
from .config_delivery import RetryConfig
from .config_sources import ConfigSource, load_config
from .consuming.arguments import Arguments
from .consuming.excerpts import Excerpt, checked_span
from .consuming.subscriptions import BatchHandler, Broadcast, Handler, Subscription
from .errands import Errand
from .errors import UnsupportedError
from .fields import Headers
from .forks import begin_in_child, catch_up
from .message import Message, Receipt
from .middleware import ConsumeMiddleware, Middleware, PublishMiddleware, check_middleware
from .publishing.chained import ChainedPublisher
from .publishing.inbox import SMALL
from .publishing.publisher import Publisher
from .publishing.records import Record
from .state import CloseReport, FlushReport
from .threads import StopToken, seconds, yes_or_no
from .wiring import Wiring

_Handler = TypeVar("_Handler", bound=Handler | BatchHandler)


class EventBus(StatusCalls, DeadLetterCalls, WaitCalls):
    """One bus over one broker. Every method may be called from any thread, handlers and callbacks included.

    `source`: a URL, a mapping, an EventBusConfig, or None for `EVENTBUS_URL`. Making one does no I/O.
    `timeout` arguments are seconds; None is the configured default, never "for ever".
    """

    def __init__(self, source: ConfigSource = None) -> None:
        self.config = config = load_config(source)
        self._middleware = Middleware()
        self._wire(Wiring(config, self._middleware))
        self.features = self._wiring.backend.features
        _buses.add(self)

    def _wire(self, wiring: Wiring) -> None:
        """Take these parts into use."""
        self._wiring = wiring
        self._life = wiring.life
        self._supervisor = wiring.life.supervisor
        self._monitor = wiring.life.monitor
        self._callbacks = wiring.callbacks
        self._consumers = wiring.consumers
        self._copier = wiring.publisher
        self._pending = wiring.publisher.pending
        self._quick = wiring.quick

    def _in_child(self) -> None:
        self._wire(self._wiring.in_child())

    def _resume(self) -> None:
        self._wiring.resume()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be pickled, for a connection cannot: pass bus.config on, and make a bus of it there"
        )

    # -- lifecycle -------------------------------------------------------------------------------

    def open(self, timeout: float | None = None, wait: bool = True) -> None:
        """Connect and start the health check. On a bus that was connected already nothing happens.

        wait=True: within `timeout` seconds or ConnectFailedError, AuthenticationError; the bus is then as
        new. wait=False: returns at once and keeps trying without limit; publishes wait. Either way a
        subscription that the broker refuses is FAILED, and does not hold the others back. UnsupportedError: gevent
        has patched threads, and the bus could not run on that; the text says what to do.
        """
        catch_up()
        asked: list[Errand[StopToken | None]] = []
        # Here, as in `__enter__` and `subscribe`: an exception may come as the call inside returns.
        try:
            self._life.open(seconds(timeout, self.config.connect_timeout), yes_or_no(wait, "wait"), asked)
        except BaseException:
            self._life.errands.leave_all(asked)
            raise

    def close(self, timeout: float | None = None) -> CloseReport:
        """Take no more publishes, let handlers and answers finish, end everything; within `timeout` seconds.

        Idempotent. Called from a callback it does not wait for that one. Called from a handler it only begins, and the
        report says what is unfinished then: what the handler has done is acknowledged when it returns, and next calls
        wait for the end.
        """
        return self._life.close(seconds(timeout, self.config.close_timeout))

    def _begin_close(self, timeout: float) -> None:
        self._life.begin_close(timeout)

    def __enter__(self) -> EventBus:
        catch_up()
        asked: list[Errand[StopToken | None]] = []
        try:
            self._life.open(self.config.connect_timeout, True, asked)
            return self
        except BaseException:
            self._life.errands.leave_all(asked)
            raise

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"<EventBus {self.config.name!r} over {self._wiring.backend.name}: {self._supervisor.phases.phase.value}>"
        )

    # -- publishing ------------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: object,
        *,
        key: str | bytes | None = None,
        headers: Headers | None = None,
        id: str | None = None,
        partition: int | None = None,
        timestamp: datetime | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Publish and return once the broker has confirmed.

        key: str or bytes. headers: a mapping of names to str or bytes, or pairs: names may repeat, None is a null.
        partition, timestamp: where and as of when it is stored (an aware datetime); Kafka only, else UnsupportedError.
        Raises PublishRejectedError, PublishNotSentError (no connection or room in time) or
        PublishUnknownError (no answer in time); each carries the id to publish again with.
        """
        wait = self._patience(timeout)
        return self._verbs(wait).publish((topic, payload, key, headers, id, partition, timestamp), wait)

    def publish_async(
        self,
        topic: str,
        payload: object,
        *,
        key: str | bytes | None = None,
        headers: Headers | None = None,
        id: str | None = None,
        partition: int | None = None,
        timestamp: datetime | None = None,
        timeout: float | None = None,
    ) -> Future[Receipt]:
        """Publish and return a Future of the receipt; its done-callbacks run on a thread of their own.

        `timeout` bounds the wait for room; what was accepted lives until it is answered or `close()`.
        `cancel()` takes the message back, and returns True, as long as no client was given it.
        """
        wait = self._patience(timeout)
        return self._verbs(wait).publish_async((topic, payload, key, headers, id, partition, timestamp), wait)

    def publish_many(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Receipt]:
        """Publish all, pipelined; receipts in order. PublishManyError carries each result, in order."""
        wait = self._patience(timeout)
        return self._verbs(wait).publish_many(messages, wait)

    def publish_nowait(
        self,
        topic: str,
        payload: object,
        *,
        key: str | bytes | None = None,
        headers: Headers | None = None,
        id: str | None = None,
        partition: int | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """Publish without waiting. Never blocks: PublishNotSentError at once when there is no room.

        What fails later goes to the error callbacks and to `flush()`.
        """
        inbox, numbers, pending = self._quick
        records, extras = inbox.records, None
        # All that a plain message needs, in one frame: of every two calls saved it costs a fifth less.
        if (
            len(records) < inbox.room
            and type(payload) is bytes
            and type(topic) is str
            and topic in inbox.topics
            and len(payload) <= SMALL
            and (key is None or (type(key) is str and (extras := inbox.keys.get(key)) is not None))
            and headers is None
            and id is None
            and partition is None
            and timestamp is None
        ):
            record: Record = (next(numbers), topic, payload, extras, None)  # type: ignore[assignment]
            records.append(record)
            if inbox.idle:
                inbox.wake()
                if pending.sender.ended:
                    pending.too_late(record)
            return
        self._verbs(0.0).publish_nowait((topic, payload, key, headers, id, partition, timestamp))

    def flush(self, timeout: float | None = None) -> FlushReport:
        """Wait up to `timeout` seconds until all that was accepted so far is answered."""
        wait = self._patience(timeout)
        return self._verbs(wait).flush(wait)

    # -- consuming -------------------------------------------------------------------------------

    def subscribe(
        self,
        topic: str,
        handler: Handler | BatchHandler,
        *,
        group: str | Broadcast | None = None,
        concurrency: int = 1,
        start: str | datetime = "earliest",
        ordered: bool = False,
        retry: RetryConfig | None = None,
        dead_letter: str | EllipsisType | None = ...,
        handler_timeout: float | None = None,
        batch: tuple[int, float] | None = None,
        in_children: bool = False,
    ) -> Subscription:
        """Call `handler(message)` for each message of a topic or pattern, on `concurrency` lane threads, 1 to 1000.

        It returns: done. It raises: called again with the same message, as `retry` says (None: as the bus does), while
        its key waits. After the last attempt, or at once on `Reject`, the message is published to `dead_letter`
        (`dlq.<group>.<topic>`), and acknowledged when that is confirmed; None: tried without end, dropped on `Reject`.
        `RetryLater(seconds)` puts it off. handler_timeout: seconds after which a handler that still runs is reported.
        batch: `(n, seconds)` has it get a `Batch` of up to n messages, or of what has come so many seconds after the
        first; it returns, and all are done, or raises `BatchError` for those that are not.
        group: members share the messages; None is the bus's group; without one, or with `eventbus.BROADCAST`, every
        process gets its own copy from now on, and makes no dead letters. start: where a new group begins: "earliest",
        "latest", or an aware datetime: at the first message stamped then or later (core NATS: UnsupportedError).
        ordered: each key's order is kept inside the group whatever dies (on JetStream one member is active then).
        in_children: a forked child of this process has it, too, as another member (with `on_fork="reopen"`); else only
        where the bus was not opened before the fork.
        Raises SubscribeError for bad arguments, or when the broker refuses it; without a connection it
        waits for one. Allowed before `open()`.
        """
        asked: list[Errand[Subscription]] = []
        try:
            options = group, concurrency, start, ordered, retry, dead_letter, handler_timeout, batch, in_children
            return self._life.subscribe(Arguments(topic, handler, *options), asked)
        except BaseException:
            self._life.errands.leave_all(asked)
            raise

    def on(self, topic: str, **options: Any) -> Callable[[_Handler], _Handler]:
        """`subscribe` as a decorator, with the same options."""
        refuse_bare(topic, "on")

        def decorate(handler: _Handler) -> _Handler:
            self.subscribe(topic, handler, **options)
            return handler

        return decorate

    def unsubscribe(self, subscription: Subscription, timeout: float | None = None) -> bool:
        """End a subscription; what no handler was started for goes to the group's others.

        False: a handler was still running after `timeout` seconds; it finishes on its own.
        """
        return self._life.unsubscribe(subscription, seconds(timeout, self.config.close_timeout))

    def read(
        self,
        topic: str,
        *,
        start: str | int | datetime = "earliest",
        until: int | datetime | None = None,
        limit: int | None = None,
        partition: int | None = None,
        timeout: float | None = None,
    ) -> Excerpt:
        """Messages that a topic holds, once more: an iterator that ends. No group is joined, no position moved.

        start: "earliest", an offset, or an aware datetime: from the first message stamped then or later. until: an
        offset or aware datetime in front of which it ends; at the latest it ends where the topic did when this was
        called, so it never waits for what is published later. limit: so many messages at most. Offsets are those of
        `Message.offset`; on Kafka they are meant in each partition, or in `partition` alone (Kafka only). Partitions
        come in any order, each in its own. What is not kept any more is left out. A lost connection is waited for:
        NotConnectedError after `timeout` seconds (`publish_timeout`) without a message.
        Raises ReadError: a bad argument, no such topic (no stream for it), or the broker refuses; UnsupportedError on
        core NATS; ClosedError, also while iterating.
        """
        span = checked_span(names_of(self.config.backend), topic, start, until, limit, partition)
        if not self.features.readable or (partition is not None and not self.features.places):
            what = "keeps no messages to read" if not self.features.readable else "has no partitions to choose from"
            raise UnsupportedError(f"{self._wiring.backend.name} {what}")
        asked: list[Errand[Excerpt]] = []
        try:
            return self._life.past.read(span, seconds(timeout, self.config.publish_timeout), asked)
        except BaseException:
            self._life.errands.leave_all(asked)
            raise

    def use(self, *, consume: ConsumeMiddleware | None = None, publish: PublishMiddleware | None = None) -> None:
        """Put middleware, `fn(message, call_next)`, around each handler call and each publish that begins from now on.

        Plain functions, else TypeError. The first used is outermost, one used twice is there once. Allowed at any time.
        UnsupportedError: `consume.takes_batches` is False, and a handler is subscribed with batch=.
        consume: on the lane's thread. What it raises is the handler's failure; it returns: done.
        publish: on the publisher's thread. `call_next` has the message accepted, or raises; it returns a Future of the
        Receipt, with every verb, and `fn` returns that. What `fn` raises before `call_next`: nothing was accepted.
        """
        check_middleware(consume, publish)
        self._wiring.consumers.check_middleware(consume)
        self._middleware.use(consume, publish)
        if publish is not None:
            self._wiring.chain()
            self._quick = self._wiring.quick

    # -- recovery --------------------------------------------------------------------------------

    def start_health_check(self) -> None:
        """Start the health check; where it runs already nothing happens."""
        self._life.start_health_check()

    def stop_health_check(self, timeout: float | None = None) -> bool:
        """Stop the health check and any reconnect that runs. From now on nothing reconnects by itself.

        False: the thread was still busy after `timeout` seconds; it stops as soon as it can.
        """
        return self._life.stop_health_check(seconds(timeout, self.config.close_timeout))

    def reconnect(self, timeout: float | None = None) -> None:
        """Replace the connection now, even a healthy one, and wait for it up to `timeout` seconds.

        NotConnectedError when that fails; a running health check goes on trying. ClosedError: closed meanwhile.
        """
        self._life.reconnect(seconds(timeout, self.config.connect_timeout))

    def wait_connected(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the phase CONNECTED; whether it is there."""
        patience = seconds(timeout, self.config.connect_timeout)
        self._life.wake(0.0)
        return self._supervisor.phases.wait_connected(patience)

    def _verbs(self, patience: float) -> Publisher | ChainedPublisher:
        """Who publishes, for a call that has so many seconds; ClosedError, ForkedError.

        Of one wiring: a signal handler that forks on top of this has another one taken into use in the child.
        """
        wiring = self._wiring
        wiring.life.check_to_publish(patience)
        return wiring.verbs

    def _patience(self, timeout: float | None) -> float:
        """Seconds that a publishing call may wait: none in a log handler of ours, for recovery would wait with it."""
        return seconds(timeout, self.config.publish_timeout) * (not log.is_logging())


_buses: WeakSet[EventBus] = WeakSet()


@begin_in_child
def _steps_in_child() -> list[Callable[[], None]]:
    buses = list(_buses)
    # All resume behind all that: what the threads of one call may use the others.
    return [*(bus._in_child for bus in buses), *(bus._resume for bus in buses)]
