"""Names that the whole backend uses: of a partition, of a group, of our header."""

from __future__ import annotations

TopicPartition = tuple[str, int]
"""A topic and the number of one of its partitions."""

ID_HEADER = "Eventbus-Id"
"""The header that carries a message's id."""


def is_pattern(topic: str) -> bool:
    """Whether it stands for several topics."""
    return "*" in topic or ">" in topic


def group_id(group: str, topic: str) -> str:
    """The group's name in Kafka. A pattern has one of its own: what it shares topics with would share messages."""
    return f"{group}.{topic}" if is_pattern(topic) else group
