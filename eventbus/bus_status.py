"""What a bus tells of itself: by callbacks, and when it is asked."""

from __future__ import annotations

from attrs import asdict

from .config import EventBusConfig
from .consuming.consumers import Consumers
from .consuming.subscriptions import Subscription
from .publishing.pending import Pending
from .recovery.callbacks import Callbacks, ErrorCallback, ReconnectCallback, StateCallback
from .recovery.health import HealthMonitor
from .recovery.lifecycle import Lifecycle
from .recovery.supervisor import Supervisor
from .state import ConnectionState, HealthStatus, ReconnectStatus, Statistics


class StatusCalls:
    """The part of `EventBus` that is for callbacks and statuses."""

    config: EventBusConfig
    _callbacks: Callbacks
    _consumers: Consumers
    _life: Lifecycle
    _monitor: HealthMonitor
    _pending: Pending
    _supervisor: Supervisor

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

    def unregister_error_callback(self, callback: ErrorCallback) -> None:
        """Undo `register_error_callback`; an unknown one is fine."""
        self._callbacks.unregister("error", callback)

    def register_state_callback(self, callback: StateCallback) -> StateCallback:
        """Call `callback(ConnectionState)` after each change of phase, on the callback thread."""
        self._callbacks.register("state", callback)
        return callback

    def unregister_state_callback(self, callback: StateCallback) -> None:
        """Undo `register_state_callback`; an unknown one is fine."""
        self._callbacks.unregister("state", callback)

    def get_connection_state(self) -> ConnectionState:
        """How the connection stands."""
        return self._supervisor.phases.connection_state()

    def get_health_status(self) -> HealthStatus:
        """What the health check measured last."""
        return self._life.health_status()

    def get_reconnect_status(self) -> ReconnectStatus:
        """How reconnecting stands."""
        return self._supervisor.phases.reconnect_status(self._monitor.failures, self.config.reconnect)

    def get_subscriptions(self) -> tuple[Subscription, ...]:
        """Those that there are, in the order in which they were made."""
        return tuple(self._consumers.subscriptions)

    def get_statistics(self) -> Statistics:
        """The counters since the bus was made; up to 50 ms are given to what was published just before."""
        counts, pending = asdict(self._consumers.counts()), self._pending
        pending.catch_up(0.05)
        return Statistics(
            published=pending.published,
            **vars(pending.counts),
            **counts,
            reconnects=self._supervisor.phases.connection_state().reconnect_count,
            in_flight=pending.in_flight,
            in_flight_bytes=pending.room.in_flight_bytes,
        )
