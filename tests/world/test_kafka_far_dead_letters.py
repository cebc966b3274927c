"""Dead letters on a Kafka far away: what is on its way as a subscription ends is acknowledged, and comes once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("confluent_kafka")

from rounds import limit
from world_support import pause

from eventbus import EventBus, Message, Reject, Subscription
from eventbus.testing import KafkaServer, wait_until
from eventbus.testing.plugin import skip_or_fail

pytestmark = [pytest.mark.kafka, pytest.mark.watchdog(limit(90.0))]
WORK = 0.005
"""Seconds that a handler takes: what a close has time for is a part of the messages."""


def refuse(message: Message) -> None:
    pause(WORK)
    raise Reject("no")


@pytest.fixture(scope="module")
def server() -> Iterator[KafkaServer]:
    with skip_or_fail():
        made = KafkaServer(proxied=True).start()
    with made:
        yield made


class Orders:
    """A topic of so many messages that nobody wants, on a broker that is far away until `check`."""

    def __init__(self, server: KafkaServer, topic: str, count: int) -> None:
        self.topic = topic
        self._server = server
        self._count = count
        with self.bus() as near:
            near.publish_many([Message(topic, str(number), key=str(number)) for number in range(count)])
        server.proxy.delay(0.1)

    def bus(self) -> EventBus:
        return EventBus({"url": self._server.url, "guard": {"enabled": False}})

    def refuse(self, bus: EventBus, least: int = 50) -> Subscription:
        """Subscribe; when it returns some have been refused, and their dead letters are on their way."""
        failed = bus.get_statistics().failed
        sub = bus.subscribe(self.topic, refuse, group="g")
        wait_until(lambda: bus.get_statistics().failed >= failed + least, 15.0)
        return sub

    def check(self) -> None:
        """Once all have become dead letters, each is there once."""
        self._server.proxy.delay(0.0)
        with self.bus() as near:
            near.subscribe(self.topic, refuse, group="g")
            wait_until(lambda: len(set(self._letters(near))) == self._count, 30.0)
            assert len(self._letters(near)) == self._count, "each once"

    def _letters(self, bus: EventBus) -> list[str]:
        return [message.text() for message in bus.read(f"dlq.g.{self.topic}")]


def test_restarts_make_no_second_dead_letter(server: KafkaServer) -> None:
    orders = Orders(server, "restarts", 1_500)
    for _ in range(2):
        with orders.bus() as bus:
            orders.refuse(bus)
            bus.close(4.0)
    orders.check()


@pytest.mark.parametrize("beside", [False, True])
def test_an_unsubscribe_makes_no_second_dead_letter(server: KafkaServer, beside: bool) -> None:
    """beside: a subscription of the same consumer stays, else the consumer leaves the group."""
    orders = Orders(server, f"unsubscribed-{beside}", 500)
    with orders.bus() as bus:
        if beside:
            bus.subscribe("others", print, group="g")
        for _ in range(3):
            assert bus.unsubscribe(orders.refuse(bus), 4.0)
    orders.check()


def test_a_member_that_unsubscribes_leaves_no_second_dead_letter_to_the_others(server: KafkaServer) -> None:
    orders = Orders(server, "members", 500)
    with orders.bus() as first, orders.bus() as second:
        sub = orders.refuse(first)
        second.subscribe(orders.topic, refuse, group="g")
        assert first.unsubscribe(sub, 4.0)
        wait_until(lambda: second.get_statistics().failed >= 50, 15.0)
    orders.check()
