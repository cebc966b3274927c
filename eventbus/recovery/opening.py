"""The beginning of a bus: on a thread of ours, done whole or not at all, and undone for a caller who has left."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..config import EventBusConfig
from ..errands import Errand, Errands, NotInTime
from ..errors import ClosedError, ConnectFailedError, NotConnectedError, PublishNotSentError
from ..gate import Gate
from ..publishing.publisher import Publisher
from ..state import Phase
from ..threads import Deadline, Stopped, StopToken
from .health import HealthMonitor
from .supervisor import Supervisor

CLEAN_UP = 1.0
"""Seconds for the threads of an open that failed, or is taken back: they wait for nobody."""


class Opening:
    """Opens a bus, for whoever asks first. check() raises where it cannot run, on the caller's thread.

    on_open(wait): it is open, connected if `wait`. on_begin(), on_undone(): from now on it may have to be closed, or
    not any more. Each is called on a thread of ours.
    """

    def __init__(
        self,
        config: EventBusConfig,
        errands: Errands,
        gate: Gate,
        supervisor: Supervisor,
        monitor: HealthMonitor,
        publisher: Publisher,
        stop: StopToken,
        check: Callable[[], object],
        on_begin: Callable[[], object],
        on_open: Callable[[bool], object],
        on_undone: Callable[[], object],
    ) -> None:
        self._config = config
        self._errands = errands
        self._gate = gate
        self._supervisor = supervisor
        self._phases = supervisor.phases
        self._monitor = monitor
        self._publisher = publisher
        self._stop = stop
        self._check = check
        self._on_begin = on_begin
        self._on_open = on_open
        self._on_undone = on_undone
        self._turn = threading.Lock()  # of those who open, on threads of ours
        self._beginning = False
        self._opener: StopToken | None = None  # set once the caller of the open has left with an exception
        self._let_publishers_in(self._opens_itself)

    def open(self, timeout: float, wait: bool, asked: list[Errand[StopToken | None]]) -> None:
        """See `EventBus.open`. asked: for the caller to leave if an exception comes as this returns."""
        self._ask(timeout, wait, asked)
        self._gate.awake()

    def _ask(self, timeout: float, wait: bool, asked: list[Errand[StopToken | None]]) -> None:
        self._gate.check_shut()
        self._check()
        opener = self._opener
        if self._is_to_open or (opener is not None and opener.is_set()):
            self._gate.guard()  # before anything is there that a forked child could not use
            try:
                self._errands.run("open", lambda stop: self._open(timeout, wait, stop), timeout, self._take_back, asked)
            except NotInTime as error:
                raise ConnectFailedError(self._not_connected(timeout)) from error
        else:
            late = wait and not self._supervisor.was_connected and not self._phases.wait_connected(timeout)
            self._gate.check_shut()
            if late:
                raise NotConnectedError(self._not_connected(timeout))

    def open_itself(self, patience: float) -> None:
        """Open a forked child's copy, for a call that needs it and has so many seconds; as `open(wait=False)` does."""
        asked: list[Errand[StopToken | None]] = []
        try:
            self._ask(self._config.connect_timeout, False, asked)
            if self._config.on_outage == "raise":  # nothing is known of an outage before the first attempt
                self._phases.wait_connected(min(patience, self._config.connect_timeout))
            self._gate.awake()
        except BaseException:
            self._errands.leave_all(asked)
            raise

    @property
    def _opens_itself(self) -> bool:
        return self._phases.begins is Phase.FORKED

    @property
    def _is_to_open(self) -> bool:
        return self._phases.is_as_new or self._phases.phase is Phase.CONNECTING

    def _let_publishers_in(self, open: bool) -> None:
        let_in = None if self._config.on_outage == "wait" else _no_connection
        self._publisher.pending.refuse_with(let_in if open else _not_open)

    def _not_connected(self, timeout: float) -> str:
        return f"{self._config.name}: not connected within {timeout:g} s"

    def _open(self, timeout: float, wait: bool, stop: StopToken) -> StopToken | None:
        """Open; None when somebody else has, else whose bus it is."""
        deadline = Deadline(timeout)
        while not self._begin(wait, stop):
            if wait:
                self._wait_for_other(timeout, deadline)
            if self._adopt(stop):
                return stop
            if not self._phases.is_as_new:
                return None
        try:
            self._publisher.start()
            if wait:
                self._connect(timeout, stop)
            elif not self._phases.move(Phase.RECONNECTING):
                raise ClosedError("the bus was closed while it was being opened")
        except BaseException:
            with self._turn:
                self._clean_up()
            raise
        self._let_publishers_in(True)
        self._on_open(wait)
        return stop

    def _begin(self, wait: bool, stop: StopToken) -> bool:
        with self._turn:
            if self._beginning or not self._phases.is_as_new:
                return False
            self._beginning = True
            self._opener = stop
            self._gate.guard()
            self._errands.start()  # an open that failed just now may have let the dispatcher go
            self._on_begin()
            if not wait:  # whoever else has asked for this goes on to publish
                self._let_publishers_in(True)
        try:
            return self._phases.move(Phase.CONNECTING, only_from=self._phases.begins)
        finally:
            self._beginning = False

    def _wait_for_other(self, timeout: float, deadline: Deadline) -> None:
        """Wait until whoever was faster has opened, or has given up."""
        phases = self._phases
        phases.wait_for(lambda: phases.phase not in (Phase.CONNECTING, Phase.RECONNECTING), deadline)
        if not (phases.is_as_new or phases.phase is Phase.CONNECTED):
            self._gate.check()
            raise NotConnectedError(self._not_connected(timeout))

    def _adopt(self, stop: StopToken) -> bool:
        """Whether the bus is open for somebody who has left with an exception: it is this caller's then."""
        with self._turn:
            left = not self._is_to_open and self._opener is not None and self._opener.is_set()
            if left:
                self._opener = stop
            return left

    def _connect(self, timeout: float, stop: StopToken) -> None:
        own = self._stop.child()
        try:
            with stop.interrupts(own.set):
                self._supervisor.connect(timeout, own)
        except BaseException as error:
            closed = not self._phases.move(self._phases.begins, error, only_from=Phase.CONNECTING)
            if closed or self._stop.is_set():
                raise ClosedError("the bus was closed while it was connecting") from error
            if isinstance(error, Stopped):
                raise NotConnectedError("open() was given up") from error
            raise
        finally:
            self._stop.forget(own)

    def _take_back(self, opener: StopToken | None) -> None:
        """The caller of an open that has just succeeded has left with an exception: he has no open bus."""
        with self._turn:
            if opener is None or self._opener is not opener or self._gate.is_shut:
                return
            self._monitor.stop(CLEAN_UP)
            self._let_publishers_in(self._opens_itself)  # first: what is taken back takes no more
            self._supervisor.take_back()
            self._clean_up()

    def _clean_up(self) -> None:
        """An open that failed leaves nothing behind."""
        as_new = self._phases.is_as_new
        if as_new or self._phases.phase is Phase.CLOSED:
            self._opener = None
            self._publisher.stop(CLEAN_UP)
        if as_new:
            self._let_publishers_in(self._opens_itself)
            self._monitor.stop(CLEAN_UP)
            self._gate.unguard()
            self._on_undone()
            self._errands.stop()


def _not_open(id: str) -> Exception:
    return PublishNotSentError("the bus is not open: call open() first", id)


def _no_connection(id: str) -> Exception:
    return PublishNotSentError("there is no connection, and on_outage is 'raise'", id)
