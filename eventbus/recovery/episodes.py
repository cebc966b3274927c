"""From no connection to one: who asks for episodes, and at what pace, with the health check or without it."""

from __future__ import annotations

from collections.abc import Callable

from ..config import ReconnectConfig
from ..errors import NotConnectedError, ReconnectExhaustedError
from ..state import Phase
from ..threads import Deadline, StopToken
from .backoff import was_there
from .supervisor import Supervisor

FORCED = "reconnect() was called"
LOOK_AGAIN = 0.25
"""Seconds between two looks at a broker that was given up and did not speak."""
REACHABLE_TIMEOUT = 1.0
"""Seconds that a server has to speak, when a broker that was given up is looked at again."""
WHO_RUNS = 0.05
"""Seconds between two looks at who runs an episode: the health check may be started and stopped meanwhile."""


class Episodes:
    """Steps towards a connection, for whoever takes them: the health check, or a thread made for it.

    watched(): whether the health check runs. hurry(): have it drop what it is at, and look at once.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        config: ReconnectConfig,
        watched: Callable[[], bool],
        hurry: Callable[[], object],
    ) -> None:
        self._supervisor = supervisor
        self._config = config
        self._watched = watched
        self._hurry = hurry

    def run(self, cause: BaseException, stop: StopToken) -> float:
        """One episode; seconds to wait before the next step, 0.0 when it ended CONNECTED."""
        connected = self._supervisor.reconnect(cause, stop)
        if connected is None:  # another thread's episode runs, and will say how it ended
            return WHO_RUNS
        return 0.0 if connected else self._pace()

    def step(self, stop: StopToken) -> float:
        """The next step of a bus that has no connection; seconds to wait behind it, as `run`.

        When the attempts are used up, or were stopped, a broker that speaks again starts a new episode.
        """
        if self._supervisor.phases.phase is Phase.DISCONNECTED:
            refused = self._speaks_and_refuses()
            if not refused and not self._supervisor.reachable(REACHABLE_TIMEOUT, stop):
                return self._pace()
        return self.run(self._last_error(), stop)

    def until_connected(self, stop: StopToken) -> None:
        """Go on until there is a connection, without a limit, or until `stop` or the health check goes on."""
        phases = self._supervisor.phases
        while not stop.is_set() and not phases.phase.is_final and phases.phase is not Phase.CONNECTED:
            if self._watched():
                return
            stop.wait(self.step(stop))

    def replace(self, timeout: float, stop: StopToken) -> None:
        """Replace the session, even a healthy one, within `timeout` seconds; the first one counts as well.

        NotConnectedError when that fails: whoever runs episodes then goes on, and a link that works is kept.
        """
        supervisor, deadline = self._supervisor, Deadline(timeout)
        phases, own = supervisor.phases, stop.child()
        reached = False
        with supervisor.replacement_wanted() as wanted:

            def over() -> bool:
                nonlocal reached
                reached = reached or (wanted.is_there and phases.phase is Phase.CONNECTED)
                return reached or phases.phase.is_final or stop.is_set()

            while not over() and not deadline.over:
                if self._watched() or supervisor.in_episode:
                    if not supervisor.in_episode:
                        self._hurry()
                    phases.wait_for(over, Deadline(min(WHO_RUNS, deadline.remaining())))
                elif supervisor.reconnect(NotConnectedError(FORCED), own) is False:
                    break  # and nobody goes on
        if not reached:
            error = phases.connection_state().last_error
            why = "stop_health_check() was called" if stop.is_set() else f"{error}"
            when = f", after {timeout:g} s" if deadline.over else ""
            raise NotConnectedError(f"{why}{when}") from error

    def _pace(self) -> float:
        return self._config.max_backoff if self._speaks_and_refuses() else LOOK_AGAIN

    def _speaks_and_refuses(self) -> bool:
        """Whether the last attempt failed on a server that was there: looking at it more often is no use."""
        error = self._last_error()
        cause = error.__cause__ if isinstance(error, ReconnectExhaustedError) else error
        return cause is not None and was_there(cause)

    def _last_error(self) -> BaseException:
        return self._supervisor.phases.connection_state().last_error or NotConnectedError("there is no connection")
