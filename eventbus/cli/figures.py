"""What a running consumer does: its figures, as a line and as fields."""

from __future__ import annotations

import time
from collections import deque

from .. import EventBus

COUNTED = ("handled", "failed", "retried", "dead_lettered", "dropped", "reconnects")
WINDOW = 5.0
"""Seconds that a rate is about, at least: of a shorter time it would jump."""


class Figures:
    """Measures one bus. Not thread-safe: one thread looks."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), bus.get_statistics().handled)])

    def fields(self) -> dict[str, object]:
        """The figures now.

        phase, healthy; rate: messages handled in a second, lately; handled, failed, retried, dead_lettered, dropped,
        reconnects: as `Statistics` has them; in_hand: messages delivered and not finished; lag: messages that wait for
        the groups, None where no broker tells; not_served: subscriptions that get nothing, each with its reason.
        """
        bus, found = self._bus, self._bus.get_statistics()
        statuses = [one.status() for one in bus.get_subscriptions()]
        lags = [one.lag for one in statuses if one.lag is not None]
        health = bus.get_health_status()
        return {
            "bus": bus.config.name,
            "phase": bus.get_connection_state().phase.value,
            "healthy": health.is_healthy,
            "rate": round(self._rate(found.handled), 1),
            "in_hand": sum(one.in_hand for one in statuses),
            "lag": sum(lags) if lags else None,
            "not_served": list(health.not_served),
            **{name: getattr(found, name) for name in COUNTED},
        }

    def line(self) -> str:
        """The figures now, for people; with the cause where something is amiss."""
        found = self.fields()
        lag = "-" if found["lag"] is None else f"{found['lag']:,}"
        parts = [
            str(found["phase"]).upper(),
            f"{found['rate']:,}/s",
            f"handled {found['handled']:,}",
            f"in hand {found['in_hand']:,}",
            f"lag {lag}",
            *(f"{name.replace('_', '-')} {found[name]:,}" for name in ("retried", "dead_lettered") if found[name]),
        ]
        if not found["healthy"]:
            parts.append(self._bus.get_health_status().detail)
        elif found["not_served"]:
            parts.append(self._bus.get_health_status().not_served[0])
        return "  ".join(parts)

    def _rate(self, handled: int) -> float:
        now = time.monotonic()
        while len(self._seen) > 1 and now - self._seen[1][0] >= WINDOW:
            self._seen.popleft()
        since, before = self._seen[0]
        self._seen.append((now, handled))
        return (handled - before) / (now - since) if now > since else 0.0
