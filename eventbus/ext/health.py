"""What a process answers to health checks about its bus: a word, a status code of HTTP, and JSON. Of no framework.

`live` tells whether a restart of the process would help, and does not depend on the broker; `ready` tells whether the
bus is of use now, and does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any

from attrs import frozen

from .. import EventBus, Phase, Subscription, SubscriptionState, SubscriptionStatus

READY = "ready"
SUSPECT = "suspect"
REBALANCING = "rebalancing"
STALLED = "stalled"
PAUSED = "paused"
WORST = (SubscriptionState.FAILED.value, STALLED, SubscriptionState.PENDING.value)
"""How subscriptions may stand that should get messages and do not, the worst first."""


@frozen(kw_only=True)
class HealthReport:
    """The answer to one health check.

    status: one word. status_code: 200, or 503 where the answer is no. body: what to send as JSON; it has the status,
    and no secrets, but texts of errors, which may name brokers.
    """

    status: str
    status_code: int
    body: Mapping[str, Any]


def live(bus: EventBus) -> HealthReport:
    """Whether the process can go on: 200 "live", or 503 "closed", for what is closed stays so until a restart.

    An outage of the broker changes nothing of it. Any thread; takes no lock.
    """
    closed = bus.get_connection_state().phase is Phase.CLOSED
    return _report(Phase.CLOSED.value if closed else "live", not closed, {"bus": bus.config.name})


def ready(bus: EventBus, *, needs_subscriptions: bool = False, stalled_after: float | None = None) -> HealthReport:
    """Whether the bus is connected, and how each of its subscriptions stands.

    200 while it is CONNECTED: "ready"; "suspect" when the last probe failed (so many in a row are an outage as
    `reconnect.failure_threshold` says); "rebalancing" when a subscription waits for its place in the group; and the
    worst of "failed" (the broker refuses a subscription), "stalled" (it gets nothing, though it is attached) and
    "pending" (the broker did not take it yet). These three are 503 with `needs_subscriptions`. Else 503, with the
    phase: "new", "connecting", "reconnecting", "disconnected", "closed" or "forked". The body has "subscriptions",
    each with a state of its own: one of those, or "active", "standby" or "paused", none of which makes it worse.
    stalled_after: seconds; a subscription is stalled, too, when a message has been in its hands for longer.
    Any thread; never waits for the broker or a handler.
    """
    connection, health = bus.get_connection_state(), bus.get_health_status()
    found = [_subscription(sub, stalled_after) for sub in bus.get_subscriptions()]
    states = {one["state"] for one in found}
    trouble = next((word for word in WORST if word in states), None)
    if not connection.is_connected:
        status = connection.phase.value
    elif trouble is not None:
        status = trouble
    elif not health.is_healthy:
        status = SUSPECT
    else:
        status = REBALANCING if REBALANCING in states else READY
    well = connection.is_connected and not (needs_subscriptions and trouble is not None)
    body = {
        "bus": bus.config.name,
        "phase": connection.phase.value,
        "detail": health.detail,
        "consecutive_failures": health.consecutive_failures,
        "attempt": bus.get_reconnect_status().attempt,
        "reconnect_count": connection.reconnect_count,
        "last_connected_time": _time(connection.last_connected_time),
        "last_error": None if connection.last_error is None else str(connection.last_error),
        "subscriptions": found,
    }
    return _report(status, well, body)


def _report(status: str, well: bool, body: Mapping[str, Any]) -> HealthReport:
    code = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
    return HealthReport(status=status, status_code=int(code), body={"status": status, **body})


def _subscription(sub: Subscription, stalled_after: float | None) -> dict[str, Any]:
    measured = sub.status()
    state, reason = _state(measured, stalled_after)
    return {
        "topic": sub.topic,
        "group": sub.group,
        "state": state,
        "reason": reason,
        "in_hand": measured.in_hand,
        "oldest_in_hand": measured.oldest_in_hand,
        "lag": measured.lag,
    }


def _state(measured: SubscriptionStatus, stalled_after: float | None) -> tuple[str, str]:
    """How a subscription stands, and why; "" where nothing is wrong."""
    reason = measured.not_served or str(measured.error or "")
    if measured.state not in (SubscriptionState.ACTIVE, SubscriptionState.STANDBY):
        return (REBALANCING if measured.is_joining else measured.state.value), reason
    if measured.paused:
        return PAUSED, reason
    if measured.not_served:
        return STALLED, reason
    oldest = measured.oldest_in_hand
    if stalled_after is not None and oldest is not None and oldest > stalled_after:
        return STALLED, f"a message has been in hand for {oldest:.0f} s"
    return measured.state.value, reason


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
