"""How the durables of ordered groups are set, and how they differ from shared ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from .api import SECOND

LEASE = 1.5
"""Seconds: the server tells a member from a dead one by them. Measured: others take over 1.2 to 1.7 s after a kill."""
SAFETY_NET = 60.0
"""Seconds of `ack_wait` at least: what is in hand is renewed, and what a dead member had comes with its successor."""
RESETS_SINCE = "2.14"
"""The first nats-server whose consumers can begin again behind what is acknowledged."""
GROUP = "eventbus"


@frozen
class Pinning:
    """How a consumer gives its messages to one member. group: its priority group. lease: seconds."""

    group: str
    lease: float


def resets(version: object) -> bool:
    """Whether a server of this version lets consumers begin again."""
    return _parts(str(version)) >= _parts(RESETS_SINCE)


def _parts(version: str) -> tuple[int, int]:
    major, _, rest = version.lstrip("v").partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)


def pinned(lease: int, ack_wait: float) -> dict[str, Any]:
    """The settings by which one member is given all messages. lease: nanoseconds; ack_wait: seconds."""
    return {
        "ack_policy": "all",
        "ack_wait": int(ack_wait * SECOND),
        "priority_policy": "pinned_client",
        "priority_groups": [GROUP],
        "priority_timeout": lease,
    }


def pinning_in(config: Mapping[str, Any]) -> Pinning | None:
    """How a consumer pins; None where it does not."""
    groups = config.get("priority_groups") or ()
    if config.get("priority_policy") != "pinned_client" or not groups:
        return None
    return Pinning(str(groups[0]), float(config.get("priority_timeout") or LEASE * SECOND) / SECOND)


def unshared(existing: Mapping[str, Any]) -> list[str]:
    """What keeps members from sharing a consumer's messages."""
    found = []
    if existing.get("ack_policy") != "explicit":
        found.append(f"ack_policy is {existing.get('ack_policy')!r}, not 'explicit'")
    if (existing.get("priority_policy") or "none") != "none":
        found.append(f"priority_policy is {existing['priority_policy']!r}: requests would have to name a group")
    return found


def unordered(existing: Mapping[str, Any]) -> list[str]:
    """What keeps a consumer from giving its messages in order whatever dies."""
    if pinning_in(existing) is not None:
        policy = existing.get("ack_policy")
        return [] if policy == "all" else [f"ack_policy is {policy!r}, not 'all'"]
    if existing.get("max_ack_pending") == 1:
        return unshared(existing)
    return [
        "it neither pins a client (priority_policy 'pinned_client', ack_policy 'all') nor has max_ack_pending 1: "
        "ordered=True needs one of them"
    ]
