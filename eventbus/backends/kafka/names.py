"""Names that the whole backend uses: of a partition, of a group, of our header."""

from __future__ import annotations

TopicPartition = tuple[str, int]
"""A topic and the number of one of its partitions."""

ID_HEADER = "Eventbus-Id"
"""The header that carries a message's id."""


_TOPIC_ID = "topic-id="


def note_of(topic_id: str | None) -> str:
    """What is committed beside an offset: which topic of that name it is of; nothing where no broker gave an id."""
    return "" if topic_id is None else f"{_TOPIC_ID}{topic_id}"


def topic_id_in(note: str | None) -> str | None:
    """The topic that a committed offset is of; None where somebody else has committed it."""
    return note.removeprefix(_TOPIC_ID) if note is not None and note.startswith(_TOPIC_ID) else None


def is_pattern(topic: str) -> bool:
    """Whether it stands for several topics."""
    return "*" in topic or ">" in topic


def group_id(group: str, topic: str) -> str:
    """The group's name in Kafka. A pattern has one of its own: what it shares topics with would share messages."""
    return f"{group}.{topic}" if is_pattern(topic) else group
