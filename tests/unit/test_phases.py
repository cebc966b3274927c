"""Phases: legal moves only, true snapshots, and no move after the end."""

from __future__ import annotations

import itertools
import threading

import pytest

from eventbus import ConnectionState, NotConnectedError, Phase, ReconnectConfig
from eventbus.recovery.phases import Phases
from eventbus.state import MOVES

PATHS = {
    Phase.NEW: [],
    Phase.CONNECTING: [Phase.CONNECTING],
    Phase.CONNECTED: [Phase.CONNECTING, Phase.CONNECTED],
    Phase.RECONNECTING: [Phase.CONNECTING, Phase.RECONNECTING],
    Phase.DISCONNECTED: [Phase.CONNECTING, Phase.CONNECTED, Phase.DISCONNECTED],
    Phase.CLOSED: [Phase.CLOSED],
    Phase.FORKED: [],
}


def at(phase: Phase, on_move=lambda state: None) -> Phases:
    phases = Phases("test", on_move)
    for step in PATHS[phase]:
        assert phases.move(step)
    if phase is Phase.FORKED:
        phases.forked()
    assert phases.phase is phase
    return phases


@pytest.mark.parametrize(("before", "to"), list(itertools.product(Phase, Phase)))
def test_only_legal_moves_are_made(before: Phase, to: Phase) -> None:
    phases = at(before)
    if before.is_final:
        assert phases.move(to) is False
        assert phases.phase is before
    elif to in MOVES[before]:
        assert phases.move(to) is True
        assert phases.phase is to
    else:
        with pytest.raises(AssertionError, match=f"illegal move {before.name} -> {to.name}"):
            phases.move(to)
        assert phases.phase is before


def test_a_conditional_move_is_made_from_there_only() -> None:
    phases = at(Phase.CONNECTED)
    assert not phases.move(Phase.DISCONNECTED, only_from=Phase.RECONNECTING)
    assert phases.move(Phase.DISCONNECTED, only_from=Phase.CONNECTED)


def test_every_field_of_the_connection_state_changes() -> None:
    seen: list[ConnectionState] = []
    phases = at(Phase.CONNECTED, seen.append)
    cause = NotConnectedError("gone")
    first = phases.connection_state()
    assert (first.is_connected, first.reconnect_count, first.last_error) == (True, 0, None)
    assert first.last_connected_time is not None
    assert first.last_connected_time.tzinfo is not None
    assert phases.move(Phase.RECONNECTING, cause)
    lost = phases.connection_state()
    assert (lost.phase, lost.is_connected, lost.last_error) == (Phase.RECONNECTING, False, cause)
    assert phases.move(Phase.CONNECTED, reconnected=True)
    back = phases.connection_state()
    assert (back.is_connected, back.reconnect_count) == (True, 1)
    assert back.last_connected_time is not None
    assert back.last_connected_time > first.last_connected_time
    assert [state.phase for state in seen] == [
        Phase.CONNECTING,
        Phase.CONNECTED,
        Phase.RECONNECTING,
        Phase.CONNECTED,
    ]


def test_every_field_of_the_reconnect_status_changes() -> None:
    config = ReconnectConfig(max_attempts=7)
    phases = at(Phase.CONNECTED)
    quiet = phases.reconnect_status(0, config)
    assert (quiet.failure_count, quiet.is_reconnecting, quiet.attempt) == (0, False, 0)
    assert quiet.last_reconnect_time is None
    assert quiet.config is config
    phases.move(Phase.RECONNECTING)
    phases.attempt = 4
    busy = phases.reconnect_status(3, config)
    assert (busy.failure_count, busy.is_reconnecting, busy.attempt) == (3, True, 4)
    phases.move(Phase.CONNECTED, reconnected=True)
    after = phases.reconnect_status(0, config)
    assert (after.is_reconnecting, after.attempt) == (False, 0)
    assert after.last_reconnect_time == phases.connection_state().last_connected_time


def test_downtime_counts_from_the_first_sign_of_trouble() -> None:
    phases = at(Phase.CONNECTED)
    assert phases.downtime() == 0.0
    phases.trouble()
    early = phases.downtime()
    phases.move(Phase.RECONNECTING)
    phases.trouble_over()  # too late: it was judged lost
    assert phases.downtime() >= early > 0.0
    phases.move(Phase.CONNECTED)
    assert phases.downtime() == 0.0
    phases.trouble()
    phases.trouble_over()
    assert phases.downtime() == 0.0


def test_waiting_for_connected_ends_at_once_when_it_is_closed() -> None:
    phases = at(Phase.RECONNECTING)
    assert not phases.wait_connected(0.0)
    timer = threading.Timer(0.02, phases.move, [Phase.CLOSED])
    timer.start()
    assert not phases.wait_connected(10.0)
    timer.join()
    assert at(Phase.CONNECTED).wait_connected(0.0)
