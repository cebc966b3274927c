"""The pace of attempts: 1 2 4 8 16 30 30 ..., only ever shortened; a stop costs no attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus import AuthenticationError, ConfigError, ConnectFailedError, ReconnectConfig
from eventbus.recovery.backoff import pause_after, retrying
from eventbus.threads import Stopped, StopToken


def test_the_default_pauses() -> None:
    config = ReconnectConfig(jitter=0)
    assert [pause_after(config, attempt) for attempt in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]


@given(
    st.integers(1, 5000),
    st.floats(0, 1),
    st.floats(0, 1, exclude_max=True),
    st.floats(1, 1e300),
    st.floats(0.001, 100),
)
def test_a_pause_is_never_longer_than_promised(
    attempt: int, jitter: float, chance: float, factor: float, initial: float
) -> None:
    config = ReconnectConfig(jitter=jitter, backoff_factor=factor, initial_backoff=initial, max_backoff=initial * 50)
    full = pause_after(config, attempt, lambda: 0.0)
    assert full * (1 - jitter) <= pause_after(config, attempt, lambda: chance) <= full <= config.max_backoff
    assert full >= initial


def attempts(config: ReconnectConfig, errors: list[Exception], stop: StopToken | None = None, **options: bool):
    pauses: list[float] = []
    made = 0
    caught: Exception | None = None
    try:
        for turn in retrying(config, stop or StopToken(), pauses.append, **options):
            with turn:
                made += 1
                if errors:
                    raise errors.pop(0)
    except Exception as error:
        caught = error
    return made, pauses, caught


def test_the_first_attempt_is_at_once_and_success_ends_it() -> None:
    assert attempts(ReconnectConfig(jitter=0), []) == (1, [], None)
    assert attempts(ReconnectConfig(jitter=0), [OSError(), OSError()]) == (3, [1.0, 2.0], None)


def test_the_last_error_comes_out_as_it_is() -> None:
    last = ConnectFailedError("third")
    made, pauses, caught = attempts(ReconnectConfig(max_attempts=3, jitter=0), [OSError(), OSError(), last, OSError()])
    assert (made, pauses) == (3, [1.0, 2.0])
    assert caught is last


def test_without_limit() -> None:
    config = ReconnectConfig(max_attempts=1)
    assert attempts(config, [OSError()] * 50, without_limit=True)[0] == 51
    assert attempts(ReconnectConfig(max_attempts=None), [OSError()] * 50)[0] == 51


@pytest.mark.parametrize("final", [AuthenticationError("no"), ConfigError("no"), Stopped()])
def test_some_errors_end_it_at_once(final: Exception) -> None:
    made, pauses, caught = attempts(ReconnectConfig(), [final, OSError()])
    assert (made, pauses, caught) == (1, [], final)


def test_a_stop_ends_it_before_the_pause() -> None:
    stop = StopToken()
    stop.set()
    made, pauses, caught = attempts(ReconnectConfig(), [OSError("x"), OSError("y")], stop)
    assert (made, pauses) == (1, [])
    assert isinstance(caught, OSError)


@pytest.mark.parametrize("stopped_in", [1, 2, 5])
def test_a_stop_during_a_pause_costs_one_more_turn_at_most(stopped_in: int) -> None:
    stop, pauses, made = StopToken(), list[float](), 0

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == stopped_in:
            stop.set()

    with pytest.raises(OSError, match="refused"):
        for turn in retrying(ReconnectConfig(), stop, pause):
            with turn:
                made += 1
                raise OSError("refused")
    assert (len(pauses), made) == (stopped_in, stopped_in + 1)


def test_a_turn_that_begins_with_a_look_at_the_token_makes_no_attempt_after_a_stop() -> None:
    stop, attempts_made = StopToken(), 0
    with pytest.raises(Stopped):
        for turn in retrying(ReconnectConfig(), stop, lambda seconds: stop.set()):
            with turn:
                stop.check()
                attempts_made += 1
                raise OSError("refused")
    assert attempts_made == 1


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_there_are_exactly_max_attempts_and_one_pause_less(limit: int) -> None:
    made, pauses, caught = attempts(ReconnectConfig(max_attempts=limit), [OSError(str(n)) for n in range(1, 20)])
    assert (made, len(pauses), str(caught)) == (limit, limit - 1, str(limit))


def test_a_final_error_ends_it_in_the_middle_too() -> None:
    made, pauses, caught = attempts(ReconnectConfig(jitter=0), [OSError(), AuthenticationError("no"), OSError()])
    assert (made, pauses) == (2, [1.0])
    assert isinstance(caught, AuthenticationError)


@pytest.mark.parametrize("factor", [1.0, 1.0000001, 2.0, 10.0, 1e308])
def test_the_millionth_attempt_neither_overflows_nor_waits_longer(factor: float) -> None:
    config = ReconnectConfig(backoff_factor=factor, jitter=0)
    pause = pause_after(config, 10**6)
    assert 1.0 <= pause <= 30.0
    if factor >= 2.0:
        assert pause == 30.0


def test_chance_itself_only_shortens() -> None:
    config = ReconnectConfig(jitter=0.1)
    drawn = [pause_after(config, 3) for _ in range(500)]
    assert 3.6 <= min(drawn) < max(drawn) <= 4.0
