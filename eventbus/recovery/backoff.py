"""The pace of attempts, driven by tenacity. The only module that imports it."""

from __future__ import annotations

import random
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_not_exception_type, stop_after_attempt, stop_never
from tenacity.stop import stop_base

from ..config import ReconnectConfig
from ..errors import AuthenticationError, ConfigError, ConnectFailedError, EventBusError
from ..threads import Pauses, Stopped, StopToken

FINAL = (Stopped, AuthenticationError, ConfigError)
"""Errors that end an episode at once: trying again soon would only hammer the broker."""


def pause_after(config: ReconnectConfig, attempt: int, chance: Callable[[], float] = random.random) -> float:
    """Seconds to wait after the attempt with this number (from 1): 1, 2, 4 ... max_backoff by default.

    `jitter` only ever shortens it, by at most that part.
    """
    pauses = Pauses(config.initial_backoff, config.backoff_factor, config.max_backoff)
    return pauses.after(attempt) * (1.0 - config.jitter * chance())


def retrying(
    config: ReconnectConfig, stop: StopToken, pause: Callable[[float], None], *, without_limit: bool = False
) -> Retrying:
    """The attempts of one episode: the first at once, then after ever longer pauses.

    `pause(seconds)` does the waiting. Iterate over it; the error of the last attempt comes out as it is.
    tenacity asks whether to stop before it pauses, so a stop during a pause costs one more turn: each
    attempt begins with a look at the token.
    """
    limit = None if without_limit else config.max_attempts

    def wait(state: RetryCallState) -> float:
        return pause_after(config, state.attempt_number)

    def stop_asked(state: RetryCallState) -> bool:
        return stop.is_set()

    give_up: stop_base = stop_never if limit is None else stop_after_attempt(limit)
    return Retrying(
        stop=lambda state: stop_asked(state) or give_up(state),
        wait=wait,
        sleep=pause,
        retry=retry_if_not_exception_type(FINAL),
        reraise=True,
    )


def was_there(error: BaseException) -> bool:
    """Whether an attempt failed although a server was there: by what it said, or by something here.

    Then its speaking is no reason to try again at once. So it is with errors that no broker makes, too: where no thread
    can be started, say.
    """
    if isinstance(error, ConnectFailedError):
        return error.server_spoke
    return isinstance(error, ConfigError) or not isinstance(error, (EventBusError, OSError))
