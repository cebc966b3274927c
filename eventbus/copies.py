"""Messages that the library publishes a second time: as dead letters, and as replays of them."""

from __future__ import annotations

from typing import NamedTuple

from .fields import RawHeaders


class Copy(NamedTuple):
    """A received message on its way to another topic, under its own id. stored_as: what the broker deduplicates by."""

    topic: str
    payload: bytes
    key: bytes | None
    headers: RawHeaders
    id: str
    stored_as: str


class CopyId(str):
    """The id of a message that is published a second time under it: as a dead letter, or as a replay.

    stored_as: what the broker deduplicates it by; by the id alone it would be dropped as what is there already.
    """

    __slots__ = ("stored_as",)

    stored_as: str

    @classmethod
    def of(cls, id: str, stored_as: str) -> CopyId:
        """This id, deduplicated by that."""
        made = cls(id)
        made.stored_as = stored_as
        return made


def stored_as(id: str) -> str:
    """What a message with this id is deduplicated by."""
    return id.stored_as if isinstance(id, CopyId) else id
