"""What a bus can tell about itself: its phase, and the snapshots behind the status calls."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from attrs import frozen

from .config import ReconnectConfig
from .message import Message


class Phase(Enum):
    """Where a bus stands. One writer moves it, by `MOVES` only.

    NEW: not opened, or the first connect failed. Nothing runs; `publish` raises.
    CONNECTING: `open()` is at work.
    CONNECTED: the broker answered the last time it was asked. Publishing and consuming run.
    RECONNECTING: the connection is judged lost; attempts are being made. Publishes wait.
    DISCONNECTED: no attempt is being made: they are used up (the health check goes on and a broker that
    comes back starts a new episode), or the health check is stopped. Publishes wait up to their timeout.
    CLOSED: final. Opening, publishing, subscribing, reading and reconnecting raise `ClosedError`.
    FORKED: this is a forked child's copy of a bus that its parent has opened, and the connection is the parent's. With
    `on_fork="reopen"` its first use in the child opens it; with "raise" every call but the status calls, `close` and
    `stop_health_check` raises `ForkedError`.
    """

    NEW = "new"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    DISCONNECTED = "disconnected"
    CLOSED = "closed"
    FORKED = "forked"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows it."""
        return self is Phase.CLOSED


MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.NEW: frozenset({Phase.CONNECTING, Phase.CLOSED}),
    Phase.CONNECTING: frozenset({Phase.CONNECTED, Phase.NEW, Phase.FORKED, Phase.RECONNECTING, Phase.CLOSED}),
    Phase.CONNECTED: frozenset({Phase.RECONNECTING, Phase.DISCONNECTED, Phase.CLOSED}),
    Phase.RECONNECTING: frozenset({Phase.CONNECTED, Phase.DISCONNECTED, Phase.CLOSED}),
    Phase.DISCONNECTED: frozenset({Phase.RECONNECTING, Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
    Phase.FORKED: frozenset({Phase.CONNECTING, Phase.CLOSED}),
}


@frozen(kw_only=True)
class ConnectionState:
    """The connection at one moment. Times are aware UTC.

    reconnect_count: episodes that ended CONNECTED, whichever way they healed.
    """

    phase: Phase
    is_connected: bool
    reconnect_count: int
    last_connected_time: datetime | None
    last_error: BaseException | None


@frozen(kw_only=True)
class HealthStatus:
    """What the health check measured last. Times are aware UTC.

    is_healthy: the bus is CONNECTED, the last probe succeeded and nothing has been judged lost since.
    is_running: the health-check thread is alive.
    consecutive_failures: as `ReconnectStatus.failure_count`.
    detail: what was wrong with the last probe, or what it found; before the first, the last error of connecting or
    ""; once the bus has ended, that.
    not_served: the subscriptions that get nothing now, by topic, each with its reason: PENDING and FAILED ones, those
    that hold their dead letters (`GuardConfig`), and those whose bytes in hand are all taken by messages that wait for
    their retry.
    """

    is_healthy: bool
    is_running: bool
    consecutive_failures: int
    last_success_time: datetime | None
    last_failure_time: datetime | None
    detail: str
    not_served: tuple[str, ...] = ()


@frozen(kw_only=True)
class ReconnectStatus:
    """How reconnecting stands.

    failure_count: failed probes in a row, now; a link that is known to be lost counts as if the threshold was reached.
    attempt: the number of the attempt being made, 0 when none.
    """

    failure_count: int
    last_reconnect_time: datetime | None
    is_reconnecting: bool
    attempt: int
    config: ReconnectConfig


@frozen(kw_only=True)
class ReconnectEvent:
    """A finished reconnect, as reconnect callbacks get it.

    how: "rebuilt" (new clients) or "healed" (the old ones came back by themselves).
    downtime: seconds from the first sign of trouble to CONNECTED.
    """

    how: str
    attempts: int
    downtime: float
    cause: BaseException | None
    time: datetime
    reconnect_count: int


@frozen(kw_only=True)
class ErrorEvent:
    """Something went wrong outside of any call that could raise it.

    source: "publish", "handler", "subscription", "connection", "health" or "callback".
    """

    source: str
    error: BaseException
    topic: str | None = None
    message: Message | None = None


@frozen(kw_only=True)
class Statistics:
    """Counters since the bus was made.

    published: accepted for sending. confirmed, rejected, unknown: how they were answered; core NATS
    answers count as confirmed when the server has read them. not_sent: accepted, and certainly given to no client:
    answered so, taken back by a `publish` whose time was up, or cancelled. What was refused at the door (no room,
    no connection, `on_outage="raise"`) was not accepted and counts nowhere. So published is the sum of confirmed,
    rejected, unknown, not_sent and in_flight, up to what is on its way at this moment.
    delivered: handed over by the broker. handled: handler calls that returned. failed: handler calls that raised.
    retried: those of them after which the message was to be tried again, here or by whoever gets it back.
    duplicates: redeliveries of what was in hand or just finished, acknowledged without calling the handler again.
    dropped: core NATS messages that arrived while all lanes were full, and rejected ones without a dead letter.
    dead_lettered: dead letters that the broker has confirmed. reconnects: as `reconnect_count`.
    in_flight, in_flight_bytes: accepted and unanswered, now.
    """

    published: int
    confirmed: int
    rejected: int
    unknown: int
    not_sent: int
    delivered: int
    handled: int
    failed: int
    retried: int
    duplicates: int
    dropped: int
    dead_lettered: int
    reconnects: int
    in_flight: int
    in_flight_bytes: int


@frozen(kw_only=True)
class FlushReport:
    """What `flush` found. unanswered: still without an answer when the time was up.

    failed: the ids and causes of `publish_nowait` messages that failed since the last flush, the latest 1,000 of
    them. left_out: how many more there were before those.
    """

    unanswered: int
    failed: tuple[Exception, ...]
    left_out: int = 0


@frozen(kw_only=True)
class CloseReport:
    """What `close` had to leave. unanswered: publishes that were failed as not sent or unknown.

    unhandled: messages in hand whose handler did not finish; a durable broker delivers them again.
    unfinished_threads: names of threads that were still running when the time was up.
    handed_over: how many of those in hand no handler was started for: a durable broker gives them to the group's
    others, and nothing was left half done. 0 where nobody gets them again.
    """

    unanswered: int
    unhandled: int
    unfinished_threads: tuple[str, ...]
    handed_over: int = 0

    @property
    def left(self) -> int:
        """Messages in hand that were neither handled nor handed over."""
        return self.unhandled - self.handed_over
