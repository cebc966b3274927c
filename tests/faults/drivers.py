"""What the outage suite asks of a broker: the verbs of an outage, and a few looks from the broker's side."""

from __future__ import annotations

import itertools
from typing import Any

from eventbus import EventBus, EventBusConfig, HealthCheckConfig, MemoryConfig, ReconnectConfig, Subscription
from eventbus.testing.leaks import open_descriptors
from eventbus.testing.memory import MemoryOutages
from eventbus.testing.outages import Outages, not_applicable

_numbers = itertools.count(1)


class Driver(Outages):
    """One broker of a kind, with more outages than every backend must live through, and looks from its side."""

    backend: str

    def config(self, **changes: Any) -> EventBusConfig:
        """A configuration for this broker with fast recovery; `changes` are fields of EventBusConfig."""
        settings: dict[str, Any] = {
            "name": f"{self.backend}-{next(_numbers)}",
            "health_check": HealthCheckConfig(interval=0.1, timeout=0.2, retry_interval=0.05),
            "reconnect": ReconnectConfig(initial_backoff=0.02, max_backoff=0.1),
            "connect_timeout": 2.0,
        }
        return EventBusConfig(**{**settings, "backend": self.backend_config(), **changes})

    def backend_config(self) -> Any:
        """Where the broker is."""
        raise NotImplementedError

    def close(self) -> None:
        """End the broker."""

    def slow(self, seconds: float) -> None:
        """Every answer takes so long; 0 ends it."""
        not_applicable(f"{self.backend}: answers cannot be delayed here")

    def refuse_topic(self, topic: str) -> None:
        """Subscriptions to it cannot be prepared from now on."""
        not_applicable(f"{self.backend}: a topic cannot be refused")

    def allow_topic(self, topic: str) -> None:
        """Undo `refuse_topic`."""
        not_applicable(f"{self.backend}: a topic cannot be refused")

    def restore_broken(self, step: str) -> None:
        """As `restore`, but the next link dies at "prepare", "attach" or "publish", once."""
        not_applicable(f"{self.backend}: a link cannot be broken at a step")

    def wrong_password(self) -> EventBusConfig:
        """A configuration that the broker refuses."""
        not_applicable(f"{self.backend}: there are no passwords")

    def change_password(self) -> None:
        """The broker refuses from now on what it took before, and drops the links."""
        not_applicable(f"{self.backend}: there are no passwords")

    def change_password_back(self) -> None:
        """Undo `change_password`."""
        not_applicable(f"{self.backend}: there are no passwords")

    def logins(self) -> int:
        """How many connects the broker has refused for their password."""
        not_applicable(f"{self.backend}: there are no passwords")

    def links(self) -> int:
        """How many links the broker has open now."""
        raise NotImplementedError

    def handles(self) -> int:
        """How much of the operating system this process holds now."""
        return len(open_descriptors())

    def known_of(self, bus: EventBus) -> object:
        """What the broker knows of a bus and its subscriptions: the settings that arrived."""
        raise NotImplementedError

    def unacknowledged(self, sub: Subscription) -> int:
        """How many messages handed out to this group have no acknowledgement."""
        raise NotImplementedError

    def serves(self, sub: Subscription) -> bool:
        """Whether the broker gives an active subscription its share: a group may take a moment to agree."""
        return True


class MemoryDriver(MemoryOutages, Driver):
    """The memory broker, a new one for each driver."""

    backend = "memory"

    def __init__(self) -> None:
        self.name = f"outages-{next(_numbers)}"
        super().__init__(self.name)

    def backend_config(self) -> MemoryConfig:
        return MemoryConfig(name=self.name)

    def close(self) -> None:
        self.forget()

    def restore_broken(self, step: str) -> None:
        with self._broker.lock:
            self.restore()
            self.break_next(step)

    def links(self) -> int:
        with self._broker.lock:
            return len(self._broker.sessions)

    def known_of(self, bus: EventBus) -> object:
        with self._broker.lock:
            attached = [one for session in self._broker.sessions for one in session._attached]
            return sorted((one.topic, str(one.group), one.start, one.number) for one in attached)

    def unacknowledged(self, sub: Subscription) -> int:
        with self._broker.lock:
            progress = self._broker.group_of(sub).progress.values()
            return sum(len(mark.in_hand) for one in progress for mark in one.marks)
