"""Dead letters on a Kafka far away: what is on its way as a bus closes is acknowledged, and comes once."""

from __future__ import annotations

import pytest

pytest.importorskip("confluent_kafka")

from rounds import limit
from world_support import pause

from eventbus import EventBus, Message, Reject
from eventbus.testing import KafkaServer, wait_until
from eventbus.testing.plugin import skip_or_fail

pytestmark = [pytest.mark.kafka, pytest.mark.watchdog(limit(90.0))]
COUNT = 1_500
WORK = 0.005
"""Seconds that a handler takes: what a close has time for is a part of the messages."""


def refuse(message: Message) -> None:
    pause(WORK)
    raise Reject("no")


def test_restarts_make_no_second_dead_letter() -> None:
    with skip_or_fail():
        server = KafkaServer(proxied=True).start()
    with server:
        settings = {"url": server.url, "guard": {"enabled": False}}
        with EventBus(server.url) as near:
            near.publish_many([Message("orders", str(number), key=str(number)) for number in range(COUNT)])
        server.proxy.delay(0.1)
        for _ in range(2):
            with EventBus(settings) as bus:
                bus.subscribe("orders", refuse, group="g")
                wait_until(lambda: bus.get_statistics().failed >= 50, 15.0)
                bus.close(4.0)
        server.proxy.delay(0.0)
        with EventBus(settings) as near:
            near.subscribe("orders", refuse, group="g")
            wait_until(lambda: len({message.text() for message in near.read("dlq.g.orders")}) == COUNT, 30.0)
            letters = [message.text() for message in near.read("dlq.g.orders")]
    assert len(letters) == COUNT, "each once"
