"""Dead letters on a Kafka far away: what is on its way as a bus closes is acknowledged, and comes once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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


@pytest.fixture
def server() -> Iterator[KafkaServer]:
    with skip_or_fail():
        made = KafkaServer(proxied=True).start()
    with made:
        with EventBus(made.url) as near:
            near.publish_many([Message("orders", str(number), key=str(number)) for number in range(COUNT)])
        made.proxy.delay(0.1)
        yield made


def settings_of(server: KafkaServer) -> dict[str, Any]:
    return {"url": server.url, "guard": {"enabled": False}}


def check_letters(server: KafkaServer) -> None:
    """Once all have become dead letters, each is there once."""
    server.proxy.delay(0.0)
    with EventBus(settings_of(server)) as near:
        near.subscribe("orders", refuse, group="g")
        wait_until(lambda: len({message.text() for message in near.read("dlq.g.orders")}) == COUNT, 30.0)
        letters = [message.text() for message in near.read("dlq.g.orders")]
    assert len(letters) == COUNT, "each once"


def test_restarts_make_no_second_dead_letter(server: KafkaServer) -> None:
    for _ in range(2):
        with EventBus(settings_of(server)) as bus:
            bus.subscribe("orders", refuse, group="g")
            wait_until(lambda: bus.get_statistics().failed >= 50, 15.0)
            bus.close(4.0)
    check_letters(server)


@pytest.mark.parametrize("beside", [False, True])
def test_an_unsubscribe_makes_no_second_dead_letter(server: KafkaServer, beside: bool) -> None:
    """beside: a subscription of the same consumer stays, else the consumer leaves the group."""
    with EventBus(settings_of(server)) as bus:
        if beside:
            bus.subscribe("others", print, group="g")
        for _ in range(3):
            failed = bus.get_statistics().failed
            sub = bus.subscribe("orders", refuse, group="g")
            wait_until(lambda: bus.get_statistics().failed >= failed + 50, 15.0)  # noqa: B023
            assert bus.unsubscribe(sub, 4.0)
    check_letters(server)


def test_a_member_that_unsubscribes_leaves_no_second_dead_letter_to_the_others(server: KafkaServer) -> None:
    with EventBus(settings_of(server)) as first, EventBus(settings_of(server)) as second:
        sub = first.subscribe("orders", refuse, group="g")
        wait_until(lambda: first.get_statistics().failed >= 50, 15.0)
        second.subscribe("orders", refuse, group="g")
        assert first.unsubscribe(sub, 4.0)
        wait_until(lambda: second.get_statistics().failed >= 50, 15.0)
    check_letters(server)
