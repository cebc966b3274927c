"""What the consumers of a session have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen

from ....consuming.attachment import Attachment
from ....consuming.subscriptions import SubscriptionState
from ..clients.group_protocol import GroupProtocol
from ..clients.options import ClientOptions


@frozen
class ConsumerKey:
    """Which subscriptions share a consumer: those of a group to exact topics; a pattern has one of its own.

    group: the group's name in Kafka; None for broadcast copies. pattern: "" for exact topics. number: tells those
    apart that would read the same topic twice.
    """

    group: str | None
    pattern: str = ""
    number: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return self.pattern or ("broadcast copies" if self.group is None else f"group {self.group}")


@frozen(kw_only=True)
class Shared:
    """What the consumers of one session have in common.

    instance: a group name that nobody else has. reserve_bytes: what may wait for the lanes of one consumer, about.
    on_served, on_refused, on_error: see `SessionContext`. on_refused(attachment, error, lasting): lasting where
    it would be the same again, though nothing shows it beforehand.
    """

    options: ClientOptions
    thread_name: str
    instance: str
    protocol: GroupProtocol
    reserve_bytes: int
    commit_interval: float
    on_error: Callable[[Exception], None]
    on_served: Callable[[Sequence[Attachment], SubscriptionState], None]
    on_refused: Callable[[Attachment, Exception, bool], None]
