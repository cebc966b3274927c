"""What makes a consumer that exists unusable for a subscription."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .ordered_durable import unordered, unshared
from .streams import StreamRefused


def within(subject: str, pattern: str) -> bool:
    """Whether a pattern takes all that a subject, or another pattern, takes."""
    given, wanted = subject.split("."), pattern.split(".")
    for position, part in enumerate(wanted):
        if part == ">":
            return len(given) > position
        if position >= len(given) or given[position] == ">" or part not in ("*", given[position]):
            return False
    return len(given) == len(wanted)


def check_usable(existing: Mapping[str, Any], pattern: str, name: str, stream: str, ordered: bool = False) -> None:
    """StreamRefused where an existing consumer cannot be used for this pattern, with each reason."""
    if differences := conflicts(existing, pattern, ordered):
        text = f"durable {name!r} of stream {stream!r} exists with other settings"
        raise StreamRefused(f"{text}: {', '.join(differences)}")


def conflicts(existing: Mapping[str, Any], pattern: str, ordered: bool = False) -> list[str]:
    """What makes an existing consumer unusable for this pattern: each difference, named."""
    filters = existing.get("filter_subjects") or [existing.get("filter_subject") or ">"]
    found = unordered(existing) if ordered else unshared(existing)
    if not all(within(str(one), pattern) for one in filters):
        found.append(f"filter is {', '.join(map(str, filters))!r}, which is more than {pattern!r}")
    if existing.get("deliver_subject"):
        found.append("it is a push consumer")
    if existing.get("headers_only"):
        found.append("headers_only is set: it leaves the payloads out")
    if (existing.get("max_deliver") or -1) > 0:
        found.append(f"max_deliver is {existing['max_deliver']}: it gives up on messages")
    return found
