"""The bus: wires publishing, consuming, recovery and a backend behind one face.

Threads (all daemons, all named; `<bus>` is the configured name):

===============================  ==========================================  ===========================
thread                           what runs on it                             started / ended by
===============================  ==========================================  ===========================
`eventbus.<bus>.health`          probes, reconnect episodes, repairs         start_health_check / stop, close
`eventbus.<bus>.lane-<topic>-N`  handlers of one subscription                first delivery / unsubscribe, close
`eventbus.<bus>.answers`         done-callbacks of `publish_async` futures   first answer / close
`eventbus.<bus>.callbacks`       reconnect, state and error callbacks        first event / close
`eventbus.<bus>.reconnect`       `reconnect()` while no health check runs    the call itself
`eventbus.<bus>.closing`         closing a replaced session                  the swap / at most 5 s
`eventbus.<bus>.nats-*`          reader, writer and timer of a NATS session  the session
`eventbus.<bus>.kafka-*`         reports, topics, one thread per consumer    the session
`eventbus.<bus>.memory`          fetching of a memory session                the session
===============================  ==========================================  ===========================
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import TypeVar

from .backends import backend_for
from .config_sources import ConfigSource, load_config
from .consuming.consumers import Consumers
from .consuming.subscriptions import Broadcast, Handler, Subscription
from .errors import ClosedError, NotConnectedError, PublishNotSentError
from .gate import Gate
from .message import Message, Receipt
from .publishing.publisher import Publisher
from .recovery.callbacks import Callbacks, ErrorCallback, ReconnectCallback, StateCallback
from .recovery.closing import close_in_order
from .recovery.health import HealthMonitor
from .recovery.supervisor import Supervisor
from .state import (
    CloseReport,
    ConnectionState,
    FlushReport,
    HealthStatus,
    Phase,
    ReconnectStatus,
    Statistics,
)
from .threads import Deadline, Stopped, StopToken, seconds

logger = logging.getLogger(__name__)

_Handler = TypeVar("_Handler", bound=Handler)


class EventBus:
    """One bus over one broker. Every method may be called from any thread, handlers and callbacks included.

    `source`: a URL, a mapping, an EventBusConfig, or None for `EVENTBUS_URL`. Making one does no I/O.
    `timeout` arguments are seconds; None is the configured default, never "for ever".
    """

    def __init__(self, source: ConfigSource = None) -> None:
        config = load_config(source)
        self.config = config
        self._backend = backend = backend_for(config.backend)
        self.features = backend.features
        self._callbacks = Callbacks(config.name)
        self._publisher = Publisher(
            config.max_in_flight,
            config.max_in_flight_bytes,
            f"eventbus.{config.name}.answers",
            self._callbacks.report,
            self._suspect,
        )
        self._pending = self._publisher.pending
        self._pending.refuse_with(lambda id: PublishNotSentError("the bus is not open: call open() first", id))
        features = backend.features
        self._consumers = Consumers(
            config, features.replays, backend.new_in_hand, self._callbacks.report, features.takes_back
        )
        self._stop = StopToken()
        self._supervisor = Supervisor(
            config,
            backend,
            self._consumers.subscriptions,
            self._pending,
            self._callbacks,
        )
        self._monitor = HealthMonitor(
            config, backend.retry_interval, self._supervisor, self._callbacks.report, self._stop
        )
        self._supervisor.on_lost = self._monitor.lost
        self._lifecycle = threading.Lock()
        self._gate = Gate(config.name, self._slow_down, self._pending.renew_origin)
        self._close_report: CloseReport | None = None
        self._closed = threading.Event()
        # Two calls less for each message: while the bus is open, the session's own function, signed the same.
        self._publisher.expose = partial(setattr, self, "publish_nowait")

    # -- lifecycle -------------------------------------------------------------------------------

    def open(self, timeout: float | None = None, wait: bool = True) -> None:
        """Connect and start the health check. On a bus that is open already nothing happens.

        wait=True: within `timeout` seconds or ConnectFailedError, AuthenticationError; the bus is then as
        new. wait=False: returns at once and keeps trying without limit; publishes wait. Either way a
        subscription that the broker refuses is FAILED, and does not hold the others back.
        """
        self._gate.check()
        limit = seconds(timeout, self.config.connect_timeout)
        if not self._supervisor.phases.move(Phase.CONNECTING, only_from=Phase.NEW):
            self._gate.check()
            if wait and not self.wait_connected(limit):
                raise NotConnectedError(f"{self.config.name}: not connected within {limit:g} s")
            return
        self._gate.guard()
        if wait:
            self._connect(limit)
        else:
            self._supervisor.phases.move(Phase.RECONNECTING)
        self._let_publish()
        if self.config.health_check.enabled or not wait:
            self._monitor.start(only_connect=not self.config.health_check.enabled)

    def close(self, timeout: float | None = None) -> CloseReport:
        """Take no more publishes, let handlers and answers finish, end everything; within `timeout` seconds.

        Idempotent. Called from a handler or callback it does not wait for that thread.
        """
        limit = seconds(timeout, self.config.close_timeout)
        deadline = Deadline(limit)
        if self._gate.is_forked:
            return CloseReport(unanswered=0, unhandled=0, unfinished_threads=())
        self._gate.shut()
        self._stop.set()  # before any lock: whoever holds one is woken and lets go
        if not self._lifecycle.acquire(blocking=False):
            # Whoever closes already waits for our own threads: one of them must not wait for him.
            if not threading.current_thread().name.startswith(f"eventbus.{self.config.name}."):
                self._closed.wait(deadline.remaining())
            return self._close_report or CloseReport(unanswered=0, unhandled=0, unfinished_threads=("close",))
        if self._close_report is None:
            self._close_report = close_in_order(
                self._monitor, self._supervisor, self._consumers, self._publisher, self._callbacks, deadline
            )
            self._closed.set()
        self._lifecycle.release()
        return self._close_report

    def __enter__(self) -> EventBus:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EventBus {self.config.name!r} over {self._backend.name}: {self._supervisor.phases.phase.value}>"

    # -- publishing ------------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: object,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Publish and return once the broker has confirmed.

        Raises PublishRejectedError, PublishNotSentError (no connection or room in time) or
        PublishUnknownError (no answer in time); each carries the id to publish again with.
        """
        self._check_to_publish()
        wait = seconds(timeout, self.config.publish_timeout)
        return self._publisher.publish(topic, payload, key, headers, id, wait)

    def publish_async(
        self,
        topic: str,
        payload: object,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
        timeout: float | None = None,
    ) -> Future[Receipt]:
        """Publish and return a Future of the receipt, completed on the answer thread.

        `timeout` bounds the wait for room; what was accepted lives until it is answered or `close()`.
        """
        self._check_to_publish()
        wait = seconds(timeout, self.config.publish_timeout)
        return self._publisher.publish_async(topic, payload, key, headers, id, wait)

    def publish_many(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Receipt]:
        """Publish all, pipelined; receipts in order. PublishManyError carries each result, in order."""
        self._check_to_publish()
        return self._publisher.publish_many(messages, seconds(timeout, self.config.publish_timeout))

    def publish_nowait(
        self,
        topic: str,
        payload: object,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> None:
        """Publish without waiting. Never blocks: PublishNotSentError at once when there is no room.

        What fails later goes to the error callbacks and to `flush()`.
        """
        self._check_to_publish()
        self._publisher.publish_nowait(topic, payload, key=key, headers=headers, id=id)

    def flush(self, timeout: float | None = None) -> FlushReport:
        """Wait up to `timeout` seconds until all that was accepted so far is answered."""
        self._check_to_publish()
        return self._publisher.flush(seconds(timeout, self.config.publish_timeout))

    # -- consuming -------------------------------------------------------------------------------

    def subscribe(
        self,
        topic: str,
        handler: Handler,
        *,
        group: str | Broadcast | None = None,
        concurrency: int = 1,
        start: str = "earliest",
    ) -> Subscription:
        """Call `handler(message)` for each message of a topic or pattern, on `concurrency` lane threads.

        The handler returns: done. It raises: called again with the same message, after a pause that grows
        from 0.1 to 5 s; its key waits meanwhile. group: members share the messages; None is the bus's
        group; without one, or with `eventbus.BROADCAST`, every process gets its own copy from now on.
        start: where a new group begins, "earliest" or "latest".
        Raises SubscribeError for bad arguments, or when the broker refuses it; without a connection it
        waits for one. Allowed before `open()`.
        """
        self._gate.check()
        sub = self._consumers.add(topic, handler, group, concurrency, start)
        try:
            self._supervisor.activate(sub)
        except BaseException:
            self._consumers.remove(sub, 1.0)
            raise
        return sub

    def on(
        self,
        topic: str,
        *,
        group: str | Broadcast | None = None,
        concurrency: int = 1,
        start: str = "earliest",
    ) -> Callable[[_Handler], _Handler]:
        """`subscribe` as a decorator."""

        def decorate(handler: _Handler) -> _Handler:
            self.subscribe(topic, handler, group=group, concurrency=concurrency, start=start)
            return handler

        return decorate

    def unsubscribe(self, subscription: Subscription, timeout: float | None = None) -> bool:
        """End a subscription; what no handler was started for goes to the group's others.

        False: a handler was still running after `timeout` seconds; it finishes on its own.
        """
        return not self._consumers.remove(subscription, seconds(timeout, self.config.close_timeout))

    # -- recovery --------------------------------------------------------------------------------

    def start_health_check(self) -> None:
        """Start the health check; where it runs already nothing happens."""
        self._gate.check()
        if self._supervisor.phases.phase is Phase.NEW:
            raise NotConnectedError("the bus is not open: call open() first, it starts the health check")
        self._monitor.start()

    def stop_health_check(self, timeout: float | None = None) -> bool:
        """Stop the health check and any reconnect that runs. From now on nothing reconnects by itself.

        False: the thread was still busy after `timeout` seconds; it stops as soon as it can.
        """
        return not self._monitor.stop(seconds(timeout, self.config.close_timeout))

    def reconnect(self, timeout: float | None = None) -> None:
        """Replace the connection now, even a healthy one, and wait for it up to `timeout` seconds.

        NotConnectedError when that fails; a running health check goes on trying. ClosedError: closed meanwhile.
        """
        self._gate.check()
        if self._supervisor.phases.phase in (Phase.NEW, Phase.CONNECTING):
            raise NotConnectedError("the bus is not open: call open() first")
        limit = seconds(timeout, self.config.connect_timeout)
        if not self._monitor.reconnect_now(limit):
            self._gate.check()  # closed meanwhile
            state = self.get_connection_state()
            raise NotConnectedError(
                f"{self.config.name}: not reconnected within {limit:g} s ({state.last_error})"
            ) from state.last_error

    def wait_connected(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the phase CONNECTED."""
        return self._supervisor.phases.wait_connected(seconds(timeout, self.config.connect_timeout))

    def register_reconnect_callback(self, callback: ReconnectCallback) -> ReconnectCallback:
        """Call `callback(ReconnectEvent)` after each reconnect, on the callback thread."""
        self._callbacks.register("reconnect", callback)
        return callback

    def unregister_reconnect_callback(self, callback: ReconnectCallback) -> None:
        """Undo `register_reconnect_callback`; an unknown one is fine."""
        self._callbacks.unregister("reconnect", callback)

    def register_error_callback(self, callback: ErrorCallback) -> ErrorCallback:
        """Call `callback(ErrorEvent)` for what goes wrong outside of any call, on the callback thread."""
        self._callbacks.register("error", callback)
        return callback

    def register_state_callback(self, callback: StateCallback) -> StateCallback:
        """Call `callback(ConnectionState)` after each change of phase, on the callback thread."""
        self._callbacks.register("state", callback)
        return callback

    # -- status ----------------------------------------------------------------------------------

    def get_connection_state(self) -> ConnectionState:
        """How the connection stands."""
        return self._supervisor.phases.connection_state()

    def get_health_status(self) -> HealthStatus:
        """What the health check measured last."""
        return self._monitor.status()

    def get_reconnect_status(self) -> ReconnectStatus:
        """How reconnecting stands."""
        return self._supervisor.phases.reconnect_status(self._monitor.failures, self.config.reconnect)

    def get_statistics(self) -> Statistics:
        """The counters since the bus was made."""
        counts, pending = self._consumers.counts(), self._pending
        return Statistics(
            published=pending.issued - pending.refused_count,
            confirmed=pending.confirmed_count,
            rejected=pending.rejected_count,
            unknown=pending.unknown_count,
            delivered=counts.delivered,
            handled=counts.handled,
            retried=counts.retried,
            duplicates=counts.duplicates,
            dropped=counts.dropped,
            reconnects=self._supervisor.phases.connection_state().reconnect_count,
            in_flight=pending.in_flight,
            in_flight_bytes=pending.in_flight_bytes,
        )

    # -- inside ----------------------------------------------------------------------------------

    def _connect(self, timeout: float) -> None:
        try:
            self._supervisor.connect(timeout, self._stop)
        except BaseException as error:
            closed = not self._supervisor.phases.move(Phase.NEW, error)
            if isinstance(error, Stopped) or closed:
                raise ClosedError("the bus was closed while it was connecting") from error
            raise
        self._monitor.recovered("connected")

    def _let_publish(self) -> None:
        if self.config.on_outage == "wait":
            self._pending.refuse_with(None)
        else:
            self._pending.refuse_with(
                lambda id: PublishNotSentError("there is no connection, and on_outage is 'raise'", id)
            )

    def _suspect(self) -> None:
        self._monitor.suspect()

    def _slow_down(self) -> None:
        self._publisher.expose = lambda publish_nowait: None
        self.__dict__.pop("publish_nowait", None)  # back to the method that looks at the gate

    def _check_to_publish(self) -> None:
        """While the bus closes, handlers that still run may publish what they have to."""
        if self._gate.is_shut and (not self._consumers.is_handler() or self._supervisor.phases.phase is Phase.CLOSED):
            self._gate.check()
