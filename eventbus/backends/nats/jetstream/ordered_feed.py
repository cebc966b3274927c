"""One ordered subscription in one session: what it is given by all the consumers that it reads from."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ....consuming.attachment import Attachment
from ....consuming.subscriptions import SubscriptionState
from ....message import Delivery
from ..link.connection import Connection
from .deliveries import OrderedDelivery
from .durables import Target
from .ordered_in_hand import OrderedInHand
from .ordered_pull import OrderedPull
from .pulling import AnyPull
from .pulls import Broken, PullFeed, Refuse
from .replies import RENEW

State = Callable[["OrderedFeed", SubscriptionState], object]
"""`state(feed, state)`: it stands so from now on. Must not block."""


class OrderedFeed(PullFeed):
    """Consumers that pin one member are read by `OrderedPull`, those with one message at a time like shared ones."""

    in_hand: OrderedInHand

    def __init__(
        self, connection: Connection, attachment: Attachment, broken: Broken, refuse: Refuse, state: State
    ) -> None:
        super().__init__(connection, attachment, broken, refuse)
        self._tell = state
        self._told: SubscriptionState | None = None

    @property
    def state(self) -> SubscriptionState:
        """STANDBY where other members are active at all that it reads from."""
        pulls = list(self.pulls.values())
        serves = not pulls or any(pull.serves for pull in pulls)
        return SubscriptionState.ACTIVE if serves else SubscriptionState.STANDBY

    @property
    def share(self) -> int:
        """Bytes that one of its pulls may ask for now."""
        return self.attachment.room_bytes // max(1, len(self.pulls))

    def begin(self) -> None:
        """The server knows of it: from now on its state is told."""
        self._told = state = self.state
        self._tell(self, state)

    def changed(self) -> None:
        """Whether it is active may be otherwise than before."""
        pulls = self._ordered()
        known = [pull.lag for pull in pulls if pull.lag is not None]
        if len(known) == len(self.pulls):
            self.lag = sum(known)
        state = self.state
        if self._told not in (None, state):
            self._told = state
            self._tell(self, state)

    def is_ours(self, topic: str, block: bytes | None) -> bool:
        """Whether a message is for the subscription."""
        return self.wants(topic) and (len(self.pulls) < 2 or self.is_original(block))

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """These are done; where one member is pinned they are acknowledged with all before them, soon."""
        self.has_moved = True
        self.hindrance.acknowledged()
        singly: list[Delivery] = []
        ours: dict[str, list[Delivery]] = {}
        for one in deliveries:
            if isinstance(one, OrderedDelivery):
                ours.setdefault(one.identity[0], []).append(one)
            else:
                singly.append(one)
        super().acknowledge(singly)
        for pull in self._ordered() if ours else ():
            if done := ours.get(pull.target.incarnation):
                pull.finish(done)

    def release(self, deliveries: Iterable[Delivery], delay: float = 0.0) -> None:
        """Nobody handles these here: whoever is active next gets them, with all behind them."""
        given_back = list(deliveries)
        super().release([one for one in given_back if not isinstance(one, OrderedDelivery)], delay)
        if self.closed:
            return
        streams = {one.identity[0] for one in given_back if isinstance(one, OrderedDelivery)}
        for pull in self._ordered():
            if pull.target.incarnation in streams:
                pull.lose("messages were given back")

    def _renew_more(self) -> None:
        tokens = [token for pull in self._ordered() for token in pull.tokens]
        if tokens:
            self._connection.writer.write(b"".join(b"PUB " + token + RENEW for token in tokens))

    def tick(self) -> bool:
        """See to what is due; whether it is over. Timer thread."""
        pulls = self._ordered()
        for pull in pulls:
            pull.tick()
        return self.leave() if self.closed else False

    def leave(self, at_once: bool = False) -> bool:
        """Hand over what is not with the lanes any more; whether that is all."""
        return all([pull.leave(at_once) for pull in self._ordered()])

    def lost(self) -> None:
        """The link is gone."""
        for pull in self._ordered():
            pull.lose("the link is gone", interrupted=True)

    def sids(self) -> list[int]:
        """The subscriptions to end at once; those of ordered pulls last until they have handed over."""
        with self._lock:
            return [pull.sid for pull in self.pulls.values() if not isinstance(pull, OrderedPull)]

    def _new_pull(self, target: Target) -> AnyPull:
        if target.pinning is None:
            return super()._new_pull(target)
        return OrderedPull(self, self._connection, target)

    def _ordered(self) -> list[OrderedPull]:
        return [pull for pull in list(self.pulls.values()) if isinstance(pull, OrderedPull)]
