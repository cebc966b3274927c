"""What the conformance suite asks of the end of a message: handled, tried again, or a dead letter that is confirmed."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from ..bus import EventBus
from ..config_delivery import RetryConfig
from ..errors import Reject, RetryLater
from ..message import Message
from ._conformance import Inbox, PublishingConformance
from .wait import wait_until

SOON = RetryConfig(initial_backoff=0.001, max_backoff=0.01)
LONG = 20.0
"""Seconds for what takes a fraction of one on a quiet machine."""


class Clerk(Inbox):
    """A handler that keeps what it gets, and raises `error` on every message whose text begins with "bad"."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error = error or ValueError("not in stock")
        self.attempts: defaultdict[str, list[int]] = defaultdict(list)

    def __call__(self, message: Message) -> None:
        super().__call__(message)
        self.attempts[message.text()].append(message.attempt)
        if message.text().startswith("bad"):
            raise self.error


class DeliveryConformance(PublishingConformance):
    """Retries and dead letters. Where nothing is stored, a dead letter is confirmed when the server has read it."""

    def letters(self, bus: EventBus, topic: str = "") -> Inbox:
        """What dead letters of group "g" come to the topic of the test; to be asked for before there are any."""
        inbox = Inbox()
        bus.subscribe(topic or f"dlq.g.{self.topic}", inbox, group="undertaker")
        self.ready(bus)
        return inbox

    def test_after_the_last_attempt_a_message_is_a_dead_letter(self) -> None:
        bus, clerk = self.open(retry=SOON), Clerk()
        inbox = self.letters(bus)
        sub = bus.subscribe(self.topic, clerk, group="g")
        self.ready(bus)
        receipt = bus.publish(self.topic, "bad one", key="k", headers={"trace": "1"})
        bus.publish(self.topic, "good", key="k")
        (letter,) = inbox.wait(1, LONG)
        wait_until(lambda: clerk.attempts["good"], LONG)
        assert clerk.attempts["bad one"] == [1, 2, 3, 4, 5]
        assert clerk.texts == ["bad one"] * 5 + ["good"], "what is behind it in its key waits"
        assert (letter.id, letter.text(), letter.key, letter.headers["trace"]) == (receipt.id, "bad one", "k", "1")
        told = {name.removeprefix("Eventbus-Dead-"): value for name, value in letter.headers.items()}
        assert (told["Error"], told["Reason"], told["Attempts"]) == ("builtins.ValueError", "not in stock", "5")
        assert (told["Topic"], told["Group"]) == (self.topic, "g")
        assert told.get("Offset") == (None if receipt.offset is None else str(receipt.offset))
        wait_until(lambda: sub.status().in_hand == 0, LONG)
        assert bus.get_statistics().dead_lettered == 1

    def test_a_rejected_message_is_a_dead_letter_at_once(self) -> None:
        bus, clerk = self.open(), Clerk(Reject("no such customer"))
        inbox = self.letters(bus)
        bus.subscribe(self.topic, clerk, group="g")
        self.ready(bus)
        bus.publish(self.topic, "bad")
        (letter,) = inbox.wait(1, LONG)
        assert clerk.attempts["bad"] == [1]
        assert letter.headers["Eventbus-Dead-Reason"] == "no such customer"

    def test_a_message_that_waits_for_its_retry_holds_up_its_key_and_nothing_else(self) -> None:
        bus, clerk = self.open(retry=RetryConfig(initial_backoff=0.5, max_attempts=2)), Clerk()
        bus.subscribe(self.topic, clerk, group="g")
        self.ready(bus)
        for text, key in (("bad", "k"), ("behind", "k"), ("beside", "l"), ("without", None)):
            bus.publish(self.topic, text, key=key)
        wait_until(lambda: {"beside", "without", "behind"} <= set(clerk.texts), LONG)
        texts = clerk.texts
        assert texts.index("behind") > texts.index("beside")
        assert texts[: texts.index("behind")].count("bad") == 2

    def test_a_message_that_is_put_off_has_not_failed(self) -> None:
        bus, seen = self.open(retry=RetryConfig(max_attempts=1)), list[int]()

        def handler(message: Message) -> None:
            seen.append(message.attempt)
            if len(seen) < 4:
                raise RetryLater(0.05, "the other side is closed")

        bus.subscribe(self.topic, handler, group="g")
        self.ready(bus)
        bus.publish(self.topic, "x")
        wait_until(lambda: bus.get_statistics().handled == 1, LONG)
        assert seen == [1, 2, 3, 4]
        assert bus.get_statistics().dead_lettered == 0

    def test_each_group_has_its_own_dead_letter_of_a_message(self) -> None:
        bus = self.open(retry=SOON)
        self.need(bus, groups="there are no groups")
        inbox = self.letters(bus, f"{self.prefix}.dead")
        for group in ("g", "h"):
            bus.subscribe(self.topic, Clerk(Reject("no")), group=group, dead_letter=f"{self.prefix}.dead")
        self.ready(bus)
        receipt = bus.publish(self.topic, "bad")
        found = inbox.wait(2, LONG)
        assert {one.headers["Eventbus-Dead-Group"] for one in found} == {"g", "h"}
        assert [one.id for one in found] == [receipt.id] * 2

    def test_dead_letters_of_a_pattern_go_by_their_own_topics(self) -> None:
        bus = self.open()
        inbox = self.letters(bus, "dlq.g.>")
        bus.subscribe(f"{self.prefix}.*", Clerk(Reject("no")), group="g")
        self.ready(bus)
        for name in ("one", "two"):
            bus.publish(f"{self.prefix}.{name}", "bad")
        wanted = {f"dlq.g.{self.prefix}.{name}" for name in ("one", "two")}
        wait_until(lambda: wanted <= {one.topic for one in inbox.messages}, LONG)

    def test_without_a_dead_letter_a_rejected_message_is_dropped_and_told(self) -> None:
        bus, clerk, errors = self.open(retry=SOON), Clerk(), list[Any]()
        bus.register_error_callback(errors.append)
        bus.subscribe(self.topic, clerk, group="g", dead_letter=None)
        self.ready(bus)
        bus.publish(self.topic, "bad")
        wait_until(lambda: len(clerk.attempts["bad"]) > 8, LONG)
        clerk.error = Reject("no")
        wait_until(lambda: bus.get_statistics().dropped == 1, LONG)
        wait_until(lambda: any(event.error is clerk.error for event in errors), LONG)
        assert bus.get_statistics().dead_lettered == 0

    def test_poison_among_good_messages_costs_none_of_them(self) -> None:
        bus, clerk = self.open(retry=SOON), Clerk()
        inbox = self.letters(bus)
        bus.subscribe(self.topic, clerk, group="g", concurrency=4)
        self.ready(bus)
        texts = [f"bad {number}" if number % 20 == 7 else f"good {number}" for number in range(400)]
        keys = [f"k{number % 13}" for number in range(400)]
        receipts = bus.publish_many([Message(self.topic, text, key=key) for text, key in zip(texts, keys, strict=True)])
        found = inbox.wait(20, LONG)
        wait_until(lambda: bus.get_statistics().handled >= 380 + 20, LONG)
        wanted = {one.id for one, text in zip(receipts, texts, strict=True) if text.startswith("bad")}
        assert Counter(one.id for one in found) == Counter(wanted)
        first = list(dict.fromkeys(clerk.texts))
        for key in set(keys):
            of_key = [text for text, one in zip(texts, keys, strict=True) if one == key]
            assert [text for text in first if text in set(of_key)] == of_key
