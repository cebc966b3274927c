"""One consumer of an ordered group, pulled from without a server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from eventbus.backends.nats.jetstream import ordered_pull
from eventbus.backends.nats.jetstream.durables import Target
from eventbus.backends.nats.jetstream.ordered_durable import Pinning
from eventbus.backends.nats.jetstream.ordered_in_hand import OrderedInHand
from eventbus.backends.nats.jetstream.ordered_pull import OrderedPull

PINNED = b"NATS/1.0\r\nNats-Pin-Id: ours\r\n\r\n"


class Feed:
    """The subscription; its lanes take all."""

    closed = paused = False
    share = 1 << 20

    def __init__(self) -> None:
        self.attachment: Any = SimpleNamespace(topic="orders", room=100, hold=lambda: False)
        self.in_hand = OrderedInHand()

    def is_ours(self, topic: str, block: bytes | None) -> bool:
        return True

    def hand_over(self, batch: Any, lease: Any) -> bool:
        return True

    def answered(self, text: str) -> None: ...

    def broken(self, reason: str) -> None: ...

    def changed(self) -> None: ...


class Connection:
    """A link on which nothing is answered."""

    inbox = "_INBOX.me"

    def __init__(self) -> None:
        self.dirty: list[Any] = []
        self.writer = SimpleNamespace(write=lambda frames: None)

    def subscribe(self, subject: str, route: Any, queue: str = "", answered: Any = None) -> int:
        return 1

    def ask(self, subject: str, payload: bytes, told: Any) -> str:
        return "1"

    def forget_request(self, token: str) -> None: ...


@pytest.fixture
def pull() -> OrderedPull:
    target = Target("orders", "orders@now", "durable", "NEXT", 10.0, 1000, pinning=Pinning("g", 1.5), is_untouched=True)
    link: Any = Connection()
    made = OrderedPull(Feed(), link, target)
    made.restart()
    return made


@pytest.fixture
def locked(pull: OrderedPull) -> Iterator[list[bool]]:
    """Of each line that is logged, whether the pull's lock was held then."""
    found: list[bool] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(pull._lock.locked())

    handler, logger = Handler(), logging.getLogger(ordered_pull.__name__)
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def add(pull: OrderedPull, sequence: int, number: int) -> None:
    pull.add("orders", b"$JS.ACK.orders.durable.1.%d.%d.1000.0" % (sequence, number), PINNED, b"x")


def test_a_consumer_that_is_set_back_is_read_again_and_that_is_logged_outside_of_the_lock(
    pull: OrderedPull, locked: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    pull._was_audited({"ack_floor": {"stream_seq": 10}})
    add(pull, 5, 1)
    assert "was set back to 5" in caplog.text
    assert [delivery.offset for delivery in pull._batch] == [5]
    assert locked, "something was logged"
    assert not any(locked)
