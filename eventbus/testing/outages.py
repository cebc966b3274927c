"""Outages of a broker on demand, under the same names for every kind of broker.

The fault chapter of the conformance suite is driven by them, and so may your own tests be::

    outages = ServerOutages(server, proxy)            # a NatsServer or KafkaServer, and the TcpProxy before it
    outages.kill()
    outages.restore()
"""

from __future__ import annotations

from typing import ClassVar, NoReturn, Protocol
from unittest import SkipTest

from .faults import TcpProxy

NOT_APPLICABLE = "not applicable: "
"""How the reason of a skip begins where a backend has no way to show what is asked for."""


def not_applicable(reason: str) -> NoReturn:
    """Skip this test: the backend cannot show it, and says why. Understood by pytest and unittest."""
    raise SkipTest(NOT_APPLICABLE + reason)


class Outages:
    """The outages of one broker. A verb returns when the outage is there, or over. One thread at a time.

    A verb that a broker has no way to show stays as it is here: what needs it is then not applicable.
    """

    partial: ClassVar[bool] = False
    """Whether a part of the broker goes, and the rest serves on: nobody has to notice then."""

    def kill(self) -> None:
        """Kill -9: links are reset, connects are refused. What was stored stays."""
        not_applicable("the broker cannot be killed here")

    def restore(self) -> None:
        """After `kill`: it is back."""
        not_applicable("the broker cannot be killed here")

    def freeze(self) -> None:
        """SIGSTOP: connects are accepted, nothing is ever answered."""
        not_applicable("the broker cannot be frozen here")

    def thaw(self) -> None:
        """After `freeze`: what was sent meanwhile is read now."""
        not_applicable("the broker cannot be frozen here")

    def cut(self) -> None:
        """Reset the present links; new ones are served (unless the broker is frozen)."""
        not_applicable("links cannot be cut one by one here")

    def half_open(self) -> None:
        """The present links go dead without a sign, as in a black hole; new ones are served."""
        not_applicable("links cannot be muted here")

    def heal(self) -> None:
        """Whatever was done to it, it is well again, or was all the time."""
        raise NotImplementedError


class _Server(Protocol):
    """What `NatsServer` and `KafkaServer` have in common."""

    @property
    def running(self) -> bool:
        """Whether the process is there."""

    def kill(self) -> None:
        """SIGKILL."""

    def start(self) -> object:
        """Start it, and wait until it answers."""

    def freeze(self) -> None:
        """SIGSTOP."""

    def thaw(self) -> None:
        """SIGCONT."""


class ServerOutages(Outages):
    """The outages of one real server, and of its links where a proxy stands in front of it."""

    def __init__(self, server: _Server, proxy: TcpProxy | None = None) -> None:
        """Both run, and are ended by who made them."""
        self._server = server
        self._proxy = proxy
        self._frozen = False
        self._muted = False

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()
        self._frozen = False

    def restore(self) -> None:
        """Start it again, on the same port, with what it had stored."""
        self._server.start()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._server.freeze()
        self._frozen = True

    def thaw(self) -> None:
        """SIGCONT, if it was frozen."""
        if self._frozen:
            self._server.thaw()
            self._frozen = False

    def cut(self) -> None:
        """Reset the links in the proxy."""
        if self._proxy is None:
            super().cut()
        else:
            self._proxy.cut()

    def half_open(self) -> None:
        """Mute the links in the proxy."""
        if self._proxy is None:
            super().half_open()
        else:
            self._proxy.half_open()
            self._muted = True

    def heal(self) -> None:
        """Thaw it, start it, and end what is mute."""
        self.thaw()
        if not self._server.running:
            self.restore()
        if self._muted:
            self.cut()  # what is mute stays so for ever
            self._muted = False
