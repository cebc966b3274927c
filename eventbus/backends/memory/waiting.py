"""Waiting for the memory broker, which may be refusing, frozen or slow."""

from __future__ import annotations

from ...errors import ConnectFailedError, NotConnectedError
from ...threads import Deadline, StopToken
from .broker import Condition, MemoryBroker


def wait_answering(broker: MemoryBroker, deadline: Deadline, stop: StopToken) -> None:
    """Wait until the broker serves new links: ConnectFailedError, NotConnectedError or Stopped if it does not."""
    if broker.delay:
        pause(deadline, broker.delay, stop)
    with stop.interrupts(lambda: notify(broker)), broker.changed:
        while True:
            stop.check()
            if broker.condition is Condition.REFUSING:
                raise ConnectFailedError("memory broker refuses connections")
            if broker.condition is Condition.UP:
                return
            if deadline.over:
                raise ConnectFailedError("memory broker does not answer")
            broker.changed.wait(deadline.remaining())


def pause(deadline: Deadline, seconds: float, stop: StopToken) -> None:
    """The delay of a slow broker, up to the deadline."""
    if stop.wait(min(seconds, deadline.remaining())):
        stop.check()
    if deadline.over:
        raise NotConnectedError("no answer from the memory broker in time")


def notify(broker: MemoryBroker) -> None:
    """Wake whoever waits for an answer."""
    with broker.changed:
        broker.changed.notify_all()
