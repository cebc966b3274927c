"""What a claim consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

Measure = Callable[[Any, str, str, int, int, Mapping[str, Any]], float]
"""Of a stage, a side, a verb, a count, a size and settings it makes a figure, in the row's unit."""

LANES: Mapping[str, Any] = {"lanes": 16, "keys": 20, "work": 0.002}
"""Four of the lanes have two of the keys, until those that have nothing to do take one over: by themselves they would
get ten times as much done as one lane."""
ONE_LANE: tuple[Mapping[str, Any], ...] = ({"lanes": 1},)


@frozen(kw_only=True)
class Row:
    """One claim. `target`: the least ratio against the peer (without one: our least figure), None: for
    information. `absolute`: it is about our own figure, `most`: which it must not exceed.

    `stage`: "nats" or "kafka", where it is measured. `settings`: the load, for both sides.
    `peer_settings`: those that the peer is tried with; the fastest is measured against. `our_settings`: ours alone.
    `against`: what the peer is called where it is ourselves, with those settings.
    """

    name: str
    title: str
    measure: Measure
    ours: str
    peer: str | None = None
    stage: str = "nats"
    unit: str = "msg/s"
    target: float | None = None
    absolute: bool = field()
    most: bool = False
    count: int
    size: int = 128
    settings: Mapping[str, Any] = field(factory=dict)
    our_settings: Mapping[str, Any] = field(factory=dict)
    peer_settings: tuple[Mapping[str, Any], ...] = field(default=({},))
    against: str = ""

    @absolute.default
    def _absolute(self) -> bool:
        return self.peer is None

    @property
    def peer_name(self) -> str:
        """What the peer is called; nothing without one."""
        return self.against or {"nats": "nats-py", "kafka": "confluent-kafka"}[self.stage] if self.peer else ""
