"""What a backend promises, as one value that all who depend on it look at."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Features:
    """What a backend promises; the conformance suite and the README's tables read the same object.

    durable: messages are stored and survive a restart of the process. confirms_publish: a receipt means
    stored. replays: what is not acknowledged is delivered again. groups: members share the work.
    ordered_by_key: order per key inside a group whatever dies. deduplicates: one id is stored once.
    heals_itself: a session survives an outage of the broker. counts_attempts: `Message.attempt` grows with
    each delivery. takes_back: one delivery may be given back, after which it comes to any member again. carries_bytes:
    keys and headers may be any bytes, and a header null. tombstones: a message may be without a value.
    foreign_names: topics and groups may have any name that the broker takes, beyond this library's rule. places: a
    partition and a timestamp may be named when publishing. readable: a topic may be read once more, beside all groups:
    `EventBus.read`. ordered_groups: `subscribe(ordered=True)` is kept.
    """

    durable: bool
    confirms_publish: bool
    replays: bool
    groups: bool
    ordered_by_key: bool
    deduplicates: bool
    heals_itself: bool
    counts_attempts: bool
    takes_back: bool = False
    carries_bytes: bool = False
    tombstones: bool = False
    foreign_names: bool = False
    places: bool = False
    readable: bool = False
    ordered_groups: bool = False
