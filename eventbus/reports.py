"""What a bus tells of dead letters: which topics hold them, and what became of a replay."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from attrs import Factory, frozen


@frozen(kw_only=True)
class DeadLetterTopic:
    """A topic of dead letters, as `EventBus.list_dead_letters` found it.

    messages: how many it holds; on Kafka counted in offsets, which transactions and compaction leave gaps in.
    oldest, newest: when the first and the last of them were stored (aware UTC); None where that is not known.
    """

    topic: str
    messages: int
    oldest: datetime | None = None
    newest: datetime | None = None


@frozen(kw_only=True)
class ReplayReport:
    """What `EventBus.replay_dead_letters` has done.

    replayed: copies that the broker has confirmed; of these `duplicates` were there already, from an earlier replay,
    and are stored once. skipped: dead letters that the filter did not want. foreign: messages that are no dead letters.
    failed: dead letters whose origin topic refused them; causes: why, the first 100. unanswered: copies that the broker
    may have stored, or may store yet, when an outage is over: where it deduplicates, replay them again within its
    duplicate window. What no client was given when a replay ended early was taken back, and counts nowhere.
    next: where to go on, by partition: what to pass as `start` the next time; in front of both of those.
    """

    replayed: int = 0
    duplicates: int = 0
    skipped: int = 0
    foreign: int = 0
    failed: int = 0
    causes: tuple[Exception, ...] = ()
    unanswered: int = 0
    next: Mapping[int | str, int] = Factory(dict)
