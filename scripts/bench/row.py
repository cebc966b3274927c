"""What a claim consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

Measure = Callable[[Any, str, str, int, int, Mapping[str, Any]], float]
"""Of a stage, a side, a verb, a count, a size and settings it makes a figure, in the row's unit."""


@frozen(kw_only=True)
class Row:
    """One claim. `target`: the least ratio against the peer (without one: our least figure), None: for
    information. `absolute`: it is about our own figure, `most`: which it must not exceed.

    `stage`: "nats" or "kafka", where it is measured. `settings`: the load, for both sides.
    `peer_settings`: those that the peer is tried with; the fastest is measured against. `our_settings`: ours alone.
    `peer_side`: "ours", where the peer is the bus itself.
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
    peer_side: str = "peer"
    peer_settings: tuple[Mapping[str, Any], ...] = field(default=({},))

    @absolute.default
    def _absolute(self) -> bool:
        return self.peer is None

    @property
    def peer_name(self) -> str:
        """What the peer is called; nothing without one."""
        if self.peer is None:
            return ""
        return "eventbus" if self.peer_side == "ours" else {"nats": "nats-py", "kafka": "confluent-kafka"}[self.stage]
