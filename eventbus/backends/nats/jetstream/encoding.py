"""Frames for JetStream: the answer to each comes on a reply subject that ends in the record's number.

What a stream drops as a duplicate goes by `Nats-Msg-Id`, and a stream may hold many topics: there it is the id and
the topic.
"""

from __future__ import annotations

from ....publishing.records import Batch
from ..core.encoding import CoreEncoder

_LONG_RUN = 256
"""Records of one topic for which it is worth while to make all endings beforehand; and for so many topics."""
_FEW_TOPICS = 64
_ENDINGS = [b"%03d" % number for number in range(1000)]


class JetStreamEncoder(CoreEncoder):
    """Makes HPUB frames whose reply subject ends in the record's number."""

    def __init__(self, origin: str, inbox: str) -> None:
        super().__init__(origin)
        self._inbox = inbox
        self._endings: dict[str, list[bytes]] = {}
        """What `_last_digits` returns, for topics of long runs."""

    def stored_id(self, id: str, topic: str) -> str:
        """What stands in `Nats-Msg-Id`: an id is one message's inside one topic."""
        return f"{id}/{topic}"

    def _last_digits(self, topic: str, last: int) -> bytes:
        return b"%03d/%b\r\n\r\n" % (last, topic.encode())

    def _endings_of(self, topic: str) -> list[bytes]:
        known = self._endings.get(topic)
        if known is None:
            if len(self._endings) >= _FEW_TOPICS:
                self._endings.clear()
            known = self._endings[topic] = [self._last_digits(topic, last) for last in range(1000)]
        return known

    def encode(self, records: Batch) -> list[bytes]:
        """Parts to be joined; each frame begins with the end of the one before. For records without a key."""
        if self._are_alike(records):
            return self._encode_alike(records)
        parts: list[bytes] = []
        known_topic, known_size, first = "", -1, 0
        for number, topic, payload, _extras, _waiter in records:
            if topic != known_topic or len(payload) != known_size or not 0 <= number - first < 1000:
                head, middle = self._heads_of(topic, len(payload), number)
                known_topic, known_size, first = topic, self._size, self._first
            last = number - first
            parts += (head, _ENDINGS[last], middle, self._last_digits(topic, last), payload)
        return parts

    def _columns(self, heads: tuple[bytes, ...], start: int, end: int, payloads: list[bytes]) -> list[list[bytes]]:
        count = len(payloads)
        if count < _LONG_RUN:
            endings = [self._last_digits(self._topic, last) for last in range(start, end)]
        else:
            endings = self._endings_of(self._topic)[start:end]
        return [[heads[0]] * count, _ENDINGS[start:end], [heads[1]] * count, endings, payloads]

    def _new_heads(self, digits: str, rest: str) -> tuple[bytes, ...]:
        return f"\r\nHPUB {self._topic} {self._inbox}.{digits}".encode(), rest.encode()

    def _address(self, topic: str, number: int) -> str:
        return f"{topic} {self._inbox}.{number:012d}"
