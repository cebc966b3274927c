"""What the servers of tests have in common: those that a test owns, and those that run already."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from eventbus.testing.servers.process import Host, ServerFailed, ServerUnavailable, wait_ready

_Host = TypeVar("_Host", bound=Host)
_Self = TypeVar("_Self", bound="HostedServer")  # type: ignore[type-arg]
_Other = TypeVar("_Other", bound="ExternalServer")


class HostedServer(ABC, Generic[_Host]):
    """A server of a test's own, on a host that its first start makes. One thread at a time drives it."""

    START = 15.0
    """Seconds that a start may take, unless told otherwise."""
    STOP = 10.0
    """Seconds that an orderly end may take, unless told otherwise."""
    ANSWER = 1.0
    """Seconds to answer in, unless told otherwise."""

    name: str

    def __init__(self) -> None:
        self._host: _Host | None = None
        self._ready_time = 0.0

    @property
    def pid(self) -> int:
        """The process id of the last start; 0 before the first and in docker."""
        return self._host.pid if self._host else 0

    @property
    def running(self) -> bool:
        """Whether the process is there; true while it is frozen."""
        return self._host is not None and self._host.running

    @property
    def ready_time(self) -> float:
        """``time.monotonic()`` of the moment the last start was first seen to answer."""
        return self._ready_time

    def start(self: _Self, *, timeout: float | None = None, wait: bool = True) -> _Self:
        """Start it and :meth:`wait_ready`, unless told not to. ``timeout``: seconds, None for :attr:`START`.

        Raises:
            ServerUnavailable: there is no server to run on this machine.
            ServerFailed: it runs already, or ended, or was not ready in time; holds its log.
        """
        self._launch()
        if wait:
            self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until it :meth:`answers`; for use after ``start(wait=False)``.

        Raises:
            ServerFailed: it ended, or was not ready in time.
        """
        self._ready_time = wait_ready(self.name, self, self.answers, self.START if timeout is None else timeout)

    @abstractmethod
    def answers(self, timeout: float = ANSWER) -> bool:
        """Whether it does its work now, as a client sees it within ``timeout`` seconds."""

    def kill(self) -> None:
        """SIGKILL, frozen or not; returns when it is gone. Fine if it is gone already."""
        if self._host is not None:
            self._host.kill()

    def freeze(self) -> None:
        """SIGSTOP; returns when the server really stands still. Connections stay open."""
        self._started().freeze()

    def thaw(self) -> None:
        """SIGCONT after :meth:`freeze`."""
        self._started().thaw()

    def stop(self, timeout: float | None = None) -> None:
        """End it in an orderly way, by SIGKILL after ``timeout`` seconds. Keeps what it has stored."""
        if self._host is not None:
            self._host.stop(self.STOP if timeout is None else timeout)

    def restart(self, *, hard: bool = True, timeout: float | None = None) -> None:
        """:meth:`kill` (``hard=False``: :meth:`stop`) and :meth:`start`."""
        if hard:
            self.kill()
        else:
            self.stop()
        self.start(timeout=timeout)

    def log(self) -> str:
        """Everything the server has logged, over all its starts."""
        return self._host.log() if self._host else ""

    def close(self) -> None:
        """Kill it and remove what it has stored. Idempotent."""
        host, self._host = self._host, None
        if host is not None:
            host.close()

    def __enter__(self: _Self) -> _Self:
        """Start it, unless it runs already."""
        try:
            return self if self.running else self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *raised: object) -> None:
        """Close it."""
        self.close()

    @abstractmethod
    def _launch(self) -> None:
        """Make a host, if there is none, and start it there."""

    def _started(self) -> _Host:
        if self._host is None:
            raise ServerFailed(f"{self.name} was never started, or is closed")
        return self._host


class ExternalServer:
    """A server that runs already, and is not ours: no outage can be made of it."""

    name = "external"
    pid = 0
    running = True

    def __init__(self, environment: str, url: str, address: tuple[str, int]) -> None:
        """``environment``: the variable that names it. Nothing is connected."""
        self._environment = environment
        self.url = url
        self.address = address
        self.port = address[1]
        self.ready_time = 0.0

    def start(self: _Other, *, timeout: float = 5.0) -> _Other:
        """Check that it answers.

        Raises:
            ServerUnavailable: it does not, within ``timeout`` seconds.
        """
        self._check(timeout)
        self.ready_time = time.monotonic()
        return self

    def close(self) -> None:
        """Leave it alone."""

    def log(self) -> str:
        """Return nothing: its log is not ours."""
        return ""

    def __enter__(self: _Other) -> _Other:
        """Check that it answers."""
        return self.start()

    def __exit__(self, *raised: object) -> None:
        """Leave it alone."""

    def _check(self, timeout: float) -> None:
        """ServerUnavailable if it does not answer."""
        raise NotImplementedError

    def _refuse(self, *_: object, **__: object) -> None:
        raise ServerUnavailable(
            f"{self._environment} names a server that is not ours: it cannot be killed, frozen, "
            f"stopped or changed. Unset it to run this test on a server of its own"
        )

    kill = freeze = thaw = stop = restart = _refuse
