"""Where dead letters go: a topic of its own for each group and topic, whose name is plain for ordinary ones."""

from __future__ import annotations

from itertools import combinations

import pytest

from eventbus import EventBus, EventBusConfig, KafkaConfig, SubscribeError
from eventbus.consuming.dead_letters import default_topic
from eventbus.names import KAFKA_NAMES, OUR_NAMES, NameRules

PARTS = ["a", "b", "a.b", "b.c", "a.b.c", "c", "c.d", "b.c.d", "a_b", "g" * 64, "g" * 63 + "h", "t" * 180]

rules = pytest.mark.parametrize("names", [OUR_NAMES, KAFKA_NAMES], ids=["ours", "kafka"])


@rules
@pytest.mark.parametrize(
    ("group", "topic", "name"),
    [
        ("billing", "orders", "dlq.billing.orders"),
        ("billing", "orders.eu.new", "dlq.billing.orders.eu.new"),
        ("billing_eu", "orders-2026", "dlq.billing_eu.orders-2026"),
    ],
)
def test_an_ordinary_group_and_topic_can_be_read_off_the_name(
    names: NameRules, group: str, topic: str, name: str
) -> None:
    assert default_topic(group, topic, names) == name


@rules
def test_no_two_have_one_name(names: NameRules) -> None:
    found: dict[str, tuple[str, str]] = {}
    for group in PARTS[:11]:
        for topic in PARTS:
            name = names.topic(default_topic(group, topic, names))
            assert found.setdefault(name, (group, topic)) == (group, topic)


def test_no_two_have_one_name_where_kafka_takes_stranger_ones() -> None:
    groups = ["g", "g.", "g..", "a b", "a/b", "a.b", ".", "ä"]
    topics = ["t", ".t", "..t", "t.", "b.t", "b..t"]
    found = [default_topic(group, topic, KAFKA_NAMES) for group in groups for topic in topics]
    assert len(set(found)) == len(found)


def test_patterns_of_a_group_with_dots_still_cover_its_dead_letters() -> None:
    assert default_topic("shop.billing", "orders", OUR_NAMES).startswith("dlq.shop.billing.orders-")


@pytest.fixture
def bus() -> EventBus:
    return EventBus(EventBusConfig(backend=KafkaConfig()))


CLASH = [("a_b", "c"), ("a", "b.c"), ("a", "b_c")]
"""Kafka makes no topic whose name differs from another one's in dots and underscores only."""


@pytest.mark.parametrize(("first", "second"), list(combinations(CLASH, 2)))
def test_what_kafka_would_refuse_at_the_first_dead_letter_is_refused_at_once(
    bus: EventBus, first: tuple[str, str], second: tuple[str, str]
) -> None:
    (group, topic), (other, another) = first, second
    kept = bus.subscribe(topic, print, group=group)
    with pytest.raises(SubscribeError, match="dead_letter="):
        bus.subscribe(another, print, group=other)
    assert bus.get_subscriptions() == (kept,)
    bus.subscribe(another, print, group=other, dead_letter="letters")
    assert bus.unsubscribe(kept)
    bus.subscribe(topic, print, group=group, dead_letter=None)


def test_a_dead_letter_topic_that_is_named_must_not_clash_either(bus: EventBus) -> None:
    bus.subscribe("c", print, group="a_b")
    bus.subscribe("d", print, group="e", dead_letter="dlq.a_b.c")  # deliberately the same
    with pytest.raises(SubscribeError, match="dead_letter="):
        bus.subscribe("e", print, group="e", dead_letter="dlq.a.b.c")


def test_elsewhere_dots_and_underscores_are_as_different_as_letters() -> None:
    bus = EventBus("memory://names")
    for group, topic in CLASH:
        bus.subscribe(topic, print, group=group)
