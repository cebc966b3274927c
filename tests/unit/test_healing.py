"""Healing: a session that may come back by itself is not replaced for nothing, nor again and again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from eventbus.errors import NotConnectedError
from eventbus.recovery import healing
from eventbus.recovery.healing import Healing
from eventbus.threads import StopToken


def session(*, fault: Exception | None = None, lost: Exception | None = None) -> Any:
    def probe(timeout: float, stop: StopToken) -> str:
        if fault is not None:
            raise fault
        return "fine"

    return SimpleNamespace(probe=probe, lost=lost)


def test_a_session_has_healed_when_its_probe_says_so() -> None:
    stop = StopToken()
    assert Healing(True).healed(session(), 1.0, stop)
    assert not Healing(True).healed(session(fault=NotConnectedError("silent")), 1.0, stop)
    assert not Healing(True).healed(session(lost=NotConnectedError("fatal")), 1.0, stop), "asked, though it is lost"
    assert not Healing(True).healed(None, 1.0, stop)


def test_one_that_may_heal_is_replaced_at_most_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(healing.time, "monotonic", lambda: now)
    pace, slow = Healing(True), session()
    pace.check_pace(slow)
    pace.replaced(slow)
    with pytest.raises(NotConnectedError, match="not again for 30 s"):
        pace.check_pace(slow)
    pace.check_pace(session(lost=NotConnectedError("fatal")))  # beyond healing: at once
    now += healing.REPLACE_EVERY
    pace.check_pace(slow)


def test_one_that_was_beyond_help_does_not_count() -> None:
    pace = Healing(True)
    pace.replaced(session(lost=NotConnectedError("fatal")))
    pace.check_pace(session())


def test_backends_whose_sessions_do_not_heal_have_no_pace() -> None:
    pace = Healing(False)
    pace.replaced(session())
    pace.check_pace(session())
