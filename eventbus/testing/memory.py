"""Outages of the memory broker on demand: recovery tested in milliseconds, without a server.

broker = MemoryOutages("orders")          # the broker behind memory://orders
broker.refuse()                           # as a killed server: links are cut, connects are refused
broker.restore()                          # it is back, with everything it had stored
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backends.memory.broker import Condition, MemoryBroker, broker_named, forget_broker
from ..config import MemoryConfig
from ..errors import NotConnectedError, SubscribeError
from .outages import Outages


class MemoryOutages(Outages):
    """The outages of one memory broker. All calls return at once; any thread."""

    def __init__(self, name: str = "default") -> None:
        self._name = name
        self._broker: MemoryBroker = broker_named(MemoryConfig(name=name))

    def refuse(self) -> None:
        """Like a killed server, cut every link, noticed, and refuse new ones. What was stored stays."""
        self._set(Condition.REFUSING)
        self.cut()

    def kill(self) -> None:
        """Do what `refuse` does: the name that all kinds of brokers have for it."""
        self.refuse()

    def freeze(self) -> None:
        """Like a stopped process, keep the links open and answer nothing."""
        self._set(Condition.FROZEN)

    def restore(self) -> None:
        """The broker is well again."""
        with self._broker.changed:
            self._broker.delay = 0.0
            self._broker.break_at = None
        self._set(Condition.UP)

    def thaw(self) -> None:
        """Answer again after `freeze`."""
        self.restore()

    def heal(self) -> None:
        """The broker is well again, whatever was done to it."""
        self.restore()

    def cut(self) -> None:
        """Cut every link, as a network that resets connections; new ones work."""
        self._each(lambda session: session.cut(NotConnectedError("the memory broker cut the link")))

    def half_open(self) -> None:
        """The present links go dead without a sign; new ones work."""
        self._each(lambda session: session.mute())

    def slow(self, seconds: float) -> None:
        """Every answer takes so long."""
        with self._broker.changed:
            self._broker.delay = seconds

    def lose_state(self) -> None:
        """Like a restart with an empty disk, forget topics, groups and positions, and cut the links."""
        with self._broker.lock:
            self._broker.lose_state()
        self.cut()

    def refuse_topic(self, topic: str, reason: str = "no permission") -> None:
        """Subscriptions to this topic or pattern cannot be prepared."""
        with self._broker.lock:
            self._broker.refused_topics[topic] = SubscribeError(f"{topic}: {reason}")

    def allow_topic(self, topic: str) -> None:
        """Undo `refuse_topic`."""
        with self._broker.lock:
            self._broker.refused_topics.pop(topic, None)

    def break_next(self, step: str) -> None:
        """The next session dies at "prepare", "attach" or "publish", once."""
        if step not in ("prepare", "attach", "publish"):
            raise ValueError(f"unknown step {step!r}")
        with self._broker.lock:
            self._broker.break_at = step

    def forget(self) -> None:
        """Take the broker out of the process; the next one of this name is empty."""
        self.cut()
        forget_broker(self._name)

    def _set(self, condition: Condition) -> None:
        with self._broker.changed:
            self._broker.condition = condition
            self._broker.changed.notify_all()
            self._broker.wake()

    def _each(self, act: Callable[[Any], object]) -> None:
        with self._broker.changed:
            for session in list(self._broker.sessions):
                act(session)
