"""`eventbus status`: connect, measure, and say how it went."""

from __future__ import annotations

import argparse
import time
from typing import Any

from attrs import asdict

from .. import ConnectFailedError, EventBus, NotConnectedError
from .output import Output, add_broker, hidden, positive_seconds


def add_to(areas: Any) -> None:
    """Add the area to the command line."""
    what = "connect to the broker and say how it does"
    made = areas.add_parser(
        "status",
        help=what,
        description=what,
        epilog="Exit codes: 0 connected and healthy, 1 not, 2 bad arguments or configuration.",
    )
    made.set_defaults(run=status)
    add_broker(made)
    made.add_argument("--timeout", type=positive_seconds, help="seconds to connect in")
    made.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def status(options: argparse.Namespace, output: Output) -> int:
    """Print one row; 1 where the broker does not answer as it should."""
    bus = EventBus(options.url)
    begun, error = time.monotonic(), ""
    try:
        bus.open(options.timeout)
    except (ConnectFailedError, NotConnectedError) as failure:
        error = hidden(str(failure), options.url)
    took = time.monotonic() - begun
    try:
        found = _measured(bus, took, error)
    finally:
        bus.close()
    output.record(found)
    return 0 if found["healthy"] else 1


def _measured(bus: EventBus, took: float, error: str) -> dict[str, object]:
    state, health = bus.get_connection_state(), bus.get_health_status()
    return {
        "backend": type(bus.config.backend).__name__.removesuffix("Config").lower(),
        "phase": state.phase.value,
        "healthy": health.is_healthy,
        "connected_in": None if error else round(took, 3),
        "detail": error or health.detail,
        "features": [name for name, offered in asdict(bus.features).items() if offered],
    }
