"""Phases: the table of legal moves is what the design says."""

from __future__ import annotations

import attrs
import pytest

from eventbus import (
    CloseReport,
    ConnectionState,
    ErrorEvent,
    FlushReport,
    HealthStatus,
    Phase,
    ReconnectEvent,
    ReconnectStatus,
    Statistics,
)
from eventbus.state import MOVES

TABLE = """
NEW           CONNECTING CLOSED
CONNECTING    CONNECTED NEW FORKED RECONNECTING CLOSED
CONNECTED     RECONNECTING DISCONNECTED CLOSED
RECONNECTING  CONNECTED DISCONNECTED CLOSED
DISCONNECTED  RECONNECTING CLOSED
CLOSED
FORKED        CONNECTING CLOSED
"""
"""Design section 5, `Phases`."""


def test_the_table_of_moves_is_exactly_the_design_s() -> None:
    lines = [line.split() for line in TABLE.strip().splitlines()]
    assert {phase.name: {to.name for to in moves} for phase, moves in MOVES.items()} == {
        first: set(rest) for first, *rest in lines
    }


def test_every_phase_has_its_moves_and_closed_is_final() -> None:
    assert set(MOVES) == set(Phase)
    assert MOVES[Phase.CLOSED] == frozenset()
    assert all((Phase.CLOSED in moves) is not phase.is_final for phase, moves in MOVES.items())
    assert all(phase not in moves for phase, moves in MOVES.items())


def test_connected_is_reached_only_by_trying() -> None:
    assert {phase for phase, moves in MOVES.items() if Phase.CONNECTED in moves} == {
        Phase.CONNECTING,
        Phase.RECONNECTING,
    }


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (ConnectionState, "phase is_connected reconnect_count last_connected_time last_error"),
        (
            HealthStatus,
            "is_healthy is_running consecutive_failures last_success_time last_failure_time detail not_served",
        ),
        (ReconnectStatus, "failure_count last_reconnect_time is_reconnecting attempt config"),
        (FlushReport, "unanswered failed left_out"),
        (CloseReport, "unanswered unhandled unfinished_threads handed_over"),
    ],
)
def test_the_fields_of_the_snapshots(kind: type, names: str) -> None:
    assert [field.name for field in attrs.fields(kind)] == names.split()


def test_statistics_have_the_promised_counters() -> None:
    names = {field.name for field in attrs.fields(Statistics)}
    assert names >= {"published", "confirmed", "rejected", "unknown", "delivered", "handled", "retried", "dropped"}
    assert names >= {"reconnects", "in_flight", "in_flight_bytes", "duplicates"}


@pytest.mark.parametrize(
    "kind",
    [CloseReport, ConnectionState, ErrorEvent, FlushReport, HealthStatus, ReconnectEvent, ReconnectStatus, Statistics],
)
def test_a_snapshot_is_a_value_that_nobody_can_change(kind: type) -> None:
    names = [field.name for field in attrs.fields(kind)]
    one, two = (kind(**dict.fromkeys(names)) for _ in range(2))
    assert one == two
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(one, names[0], 1)
    with pytest.raises(TypeError):
        kind(*names)
