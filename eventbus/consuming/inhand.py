"""What a subscription holds: deliveries not yet done, and what it finished lately.

A broker that saw a session end delivers again whatever it has no acknowledgement for. What is still in
hand is then not started twice: only its token is renewed. What was just finished is acknowledged at once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence

from ..message import Delivery

REMEMBERED = 10_000


class InHand:
    """Deliveries by identity. All methods are thread-safe and never block."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._lock = threading.Lock()
        self._held: dict[Hashable, Delivery] = {}
        # Ordered: the first key of a plain dict is found by a walk over all that were deleted before it.
        self._finished: OrderedDict[Hashable, None] = OrderedDict()
        self._remembered = remembered
        self.duplicates = 0

    def admit(self, batch: Sequence[Delivery]) -> tuple[list[Delivery], list[Delivery]]:
        """Split a batch into what is new (now in hand) and what was finished already."""
        fresh: list[Delivery] = []
        again: list[Delivery] = []
        with self._lock:
            held, finished = self._held, self._finished
            for delivery in batch:
                identity = delivery.identity
                if identity in held:
                    held[identity] = delivery
                    self.duplicates += 1
                elif identity in finished:
                    again.append(delivery)
                    self.duplicates += 1
                else:
                    held[identity] = delivery
                    fresh.append(delivery)
        return fresh, again

    def finish(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """These are done: return them with their newest tokens, to be acknowledged."""
        done: list[Delivery] = []
        with self._lock:
            held, finished = self._held, self._finished
            for delivery in deliveries:
                identity = delivery.identity
                newest = held.pop(identity, None)
                if newest is not None:
                    done.append(newest)
                    finished[identity] = None
            while len(finished) > self._remembered:
                finished.popitem(last=False)
        return done

    def drop(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """These will not be handled here: return them with their newest tokens, to be given back."""
        with self._lock:
            held = self._held
            return [held.pop(one.identity) for one in deliveries if one.identity in held]

    def forget_finished(self) -> None:
        """The broker lost its state, or counts anew: identities mean something else from now on."""
        with self._lock:
            self._finished.clear()

    def snapshot(self) -> list[Delivery]:
        """Everything in hand, with its newest token, oldest first."""
        with self._lock:
            return list(self._held.values())

    def __len__(self) -> int:
        return len(self._held)
