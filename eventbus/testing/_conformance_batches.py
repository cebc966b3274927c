"""What the conformance suite asks of handlers that take many messages at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

from ..config_delivery import RetryConfig
from ..consuming.batches import Batch
from ..errors import BatchError
from ..message import Message
from ._conformance import Inbox, PublishingConformance
from .wait import wait_until

LONG = 20.0
"""Seconds for what takes a fraction of one on a quiet machine."""


class Batches:
    """A batch handler that keeps what it gets. Thread-safe."""

    def __init__(self, bad: Mapping[str, BaseException] | None = None, whole: BaseException | None = None) -> None:
        self._lock = threading.Lock()
        self.bad = dict(bad or {})
        self.whole = whole
        self.got: list[list[str]] = []

    def __call__(self, batch: Batch) -> None:
        texts = [message.text() for message in batch]
        with self._lock:
            self.got.append(texts)
        if self.whole is not None and len(batch) > 1:
            raise self.whole
        errors = {place: self.bad[text] for place, text in enumerate(texts) if text in self.bad}
        if errors:
            raise BatchError(errors)

    @property
    def texts(self) -> list[str]:
        """All so far, in order."""
        with self._lock:
            return [text for batch in self.got for text in batch]


class BatchConformance(PublishingConformance):
    """Batch handlers: `subscribe(..., batch=(n, seconds))`."""

    def test_a_batch_handler_gets_everything_once_and_in_order(self) -> None:
        bus, batches = self.open(), Batches()
        sub = bus.subscribe(self.topic, batches, group="g", batch=(50, 0.05))
        self.ready(bus)
        bus.publish_many([Message(self.topic, str(number), key="k") for number in range(1020)])
        wait_until(lambda: bus.get_statistics().handled == 1020, LONG)
        assert batches.texts == [str(number) for number in range(1020)]
        assert max(map(len, batches.got)) == 50
        wait_until(lambda: sub.status().in_hand == 0, LONG)

    def test_what_is_less_than_a_batch_comes_in_time(self) -> None:
        bus, batches = self.open(), Batches()
        bus.subscribe(self.topic, batches, group="g", batch=(500, 0.2))
        self.ready(bus)
        for number in range(3):
            bus.publish(self.topic, str(number), key="k")
        wait_until(lambda: bus.get_statistics().handled == 3, LONG)
        assert batches.texts == ["0", "1", "2"]

    def test_columns_have_what_the_messages_have(self) -> None:
        bus, found = self.open(), list[tuple[bytes, bytes | None, object]]()

        def handler(batch: Batch) -> None:
            assert batch.payloads == [message.payload for message in batch]
            assert batch.headers == [message.raw_headers for message in batch]
            assert [message.raw_key for message in batch[:]] == batch.keys
            assert batch[-1].payload == batch.payloads[len(batch) - 1]
            found.extend(zip(batch.payloads, batch.keys, batch.headers, strict=True))

        bus.subscribe(self.topic, handler, group="g", batch=(10, 0.1))
        self.ready(bus)
        messages = [
            Message(self.topic, str(number), key="k", headers={"n": str(number)} if number % 2 else None)
            for number in range(25)
        ]
        bus.publish_many([*messages, Message(self.topic, b"")])
        wait_until(lambda: bus.get_statistics().handled == 26, LONG)
        wanted = [(one.payload, b"k", one.raw_headers) for one in messages]
        assert [one for one in found if one[1]] == wanted
        assert [one for one in found if not one[1]] == [(b"", None, ())]

    def test_a_member_that_fails_is_tried_alone_and_ends_as_a_dead_letter(self) -> None:
        bus = self.open(retry=RetryConfig(initial_backoff=0.01, max_attempts=3))
        batches, inbox = Batches({"7": ValueError("bad one")}), Inbox()
        bus.subscribe(f"dlq.g.{self.topic}", inbox, group="undertaker")
        bus.subscribe(self.topic, batches, group="g", batch=(10, 0.1))
        self.ready(bus)
        receipts = bus.publish_many([Message(self.topic, str(number), key=f"k{number}") for number in range(20)])
        (letter,) = inbox.wait(1, LONG)
        assert (letter.text(), letter.id) == ("7", receipts[7].id)
        assert letter.headers["Eventbus-Dead-Attempts"] == "3"
        wait_until(lambda: len(set(batches.texts)) == 20, LONG)
        times = Counter(batches.texts)
        assert times.pop("7") == 3
        assert set(times.values()) == {1}
        assert [batch for batch in batches.got if "7" in batch][1:] == [["7"], ["7"]]

    def test_a_batch_that_fails_whole_is_tried_one_by_one_in_order(self) -> None:
        bus = self.open(retry=RetryConfig(initial_backoff=0.01))
        batches, errors = Batches(whole=ValueError("all of it")), list[object]()
        bus.register_error_callback(errors.append)
        bus.subscribe(self.topic, batches, group="g", batch=(20, 0.3))
        self.ready(bus)
        bus.publish_many([Message(self.topic, str(number), key=f"k{number % 3}") for number in range(60)])
        wait_until(lambda: bus.get_statistics().handled == 60, LONG)
        alone = [batch[0] for batch in batches.got if len(batch) == 1]
        for key in range(3):
            assert [text for text in alone if int(text) % 3 == key] == [str(n) for n in range(60) if n % 3 == key]
        assert len(errors) < 30, "each batch is told once"
