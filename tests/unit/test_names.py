"""What topics and groups may be called: by our own rule everywhere, and on Kafka whatever Kafka takes."""

from __future__ import annotations

import pytest

from eventbus import ConfigError, EventBusConfig, KafkaConfig, MemoryConfig, NatsConfig
from eventbus.config import names_of
from eventbus.message import matches
from eventbus.names import KAFKA_NAMES, OUR_NAMES, is_ours

FOREIGN_TOPICS = ["n" * 181, "n" * 249, "a..b", ".hidden", "trailing.", "...", "a...b"]
FOREIGN_GROUPS = [
    "g" * 65,
    "g" * 10_000,
    "team:billing",
    "billing/v2",
    "my app",
    "trailing ",
    "größe",
    "a..b",
    "*",
    "日本",
]


@pytest.mark.parametrize("topic", [*FOREIGN_TOPICS, "orders", "a.b"])
def test_topics_that_kafka_takes(topic: str) -> None:
    assert KAFKA_NAMES.topic(topic) == KAFKA_NAMES.pattern(topic) == topic


@pytest.mark.parametrize("topic", FOREIGN_TOPICS)
def test_they_are_none_of_ours(topic: str) -> None:
    assert not is_ours(topic)
    with pytest.raises(ValueError, match="bad topic"):
        OUR_NAMES.topic(topic)


@pytest.mark.parametrize("topic", ["", ".", "..", "n" * 250, "a b", "a/b", "ä", "a\n", "a\x00", None, 1, b"a"])
def test_topics_that_kafka_does_not_take(topic: object) -> None:
    for check in (KAFKA_NAMES.topic, KAFKA_NAMES.pattern):
        with pytest.raises(ValueError, match="bad topic"):
            check(topic)


@pytest.mark.parametrize(
    "pattern", ["*", ">", "a.*", "*.b", "a.>", "a..*", "*..b", ".*", "*.>", ".>", "n" * 240 + ".*"]
)
def test_patterns_on_kafka(pattern: str) -> None:
    assert KAFKA_NAMES.pattern(pattern) == pattern
    with pytest.raises(ValueError, match="bad topic"):
        KAFKA_NAMES.topic(pattern)


@pytest.mark.parametrize("pattern", ["a*", ">.a", "a.>.b", "**", ">>", "a.*b", "a b.*", "*\n", "n" * 249 + ".*"])
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(ValueError, match="bad topic pattern"):
        KAFKA_NAMES.pattern(pattern)


def test_patterns_cover_empty_parts() -> None:
    assert matches("a.*.b", "a..b")
    assert matches("*.hidden", ".hidden")
    assert matches("a.>", "a..b")
    assert not matches("a.*", "a..b")


@pytest.mark.parametrize("group", FOREIGN_GROUPS)
def test_groups_that_kafka_takes(group: str) -> None:
    assert KAFKA_NAMES.group(group) == group
    assert EventBusConfig(backend=KafkaConfig(), group=group).group == group
    for backend in (NatsConfig(), MemoryConfig()):
        with pytest.raises(ConfigError, match="bad group"):
            EventBusConfig(backend=backend, group=group)


@pytest.mark.parametrize(
    "group", ["", " ", " billing", "a\nb", "a\r", "a\x00", "\x85", "\udcff", "g" * 10_001, None, 1, b"g"]
)
def test_groups_that_nobody_could_use(group: object) -> None:
    with pytest.raises(ValueError, match="bad group"):
        KAFKA_NAMES.group(group)


def test_a_name_is_kept_as_a_plain_str() -> None:
    class Name(str):
        __slots__ = ()

    for check in (KAFKA_NAMES.topic, KAFKA_NAMES.pattern, KAFKA_NAMES.group):
        assert type(check(Name("a"))) is str


def test_which_rules_hold_where() -> None:
    assert names_of(KafkaConfig()) is KAFKA_NAMES
    assert names_of(MemoryConfig()) is OUR_NAMES


RESERVED = ["_INBOX", "_INBOX.x", "_INBOX.a.b", "_R_.x", "_GR_.x"]


@pytest.mark.parametrize("topic", [*RESERVED, "_INBOX.*", "_INBOX.>"])
def test_no_topic_is_where_answers_come_in_nats(topic: str) -> None:
    for check in (OUR_NAMES.pattern, names_of(NatsConfig()).pattern, OUR_NAMES.topic):
        with pytest.raises(ValueError, match="bad topic"):
            check(topic)


def test_where_they_come_anew_no_topic_is_either() -> None:
    """A stream that we make has all topics of one first part: it would have the answers as well."""
    made = names_of(NatsConfig(inbox_prefix="shop.inbox", api_prefix="hub.js"))
    found = names_of(NatsConfig(inbox_prefix="shop.inbox", api_prefix="hub.js", create_streams=False))
    for topic in ("shop.inbox", "shop.inbox.a", "hub.js.INFO"):
        for names in (made, found):
            with pytest.raises(ValueError, match="is for NATS itself"):
                names.topic(topic)
    for topic in ("shop.orders", "hub"):
        with pytest.raises(ValueError, match="is for NATS itself"):
            made.pattern(topic)
        assert found.topic(topic) == topic
    for topic in ("shopping.inbox", "a._INBOX", "INBOX.a", "_INBOXES"):
        assert made.topic(topic) == topic
