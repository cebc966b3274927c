"""What topics and groups may be called: by this library's own rule, and by a broker's where that allows more."""

from __future__ import annotations

import re
from collections.abc import Callable

from attrs import frozen

from .fields import BadValue, exact, show
from .message import check_apart, check_group, check_pattern, check_topic

MAX_KAFKA_TOPIC = 249
MAX_KAFKA_GROUP = 10_000
"""Characters. The bound of a topic is Kafka's own, that of a group is ours."""

_KAFKA_TOPIC = re.compile(r"[A-Za-z0-9._-]+\Z")
_KAFKA_PATTERN = re.compile(r"(?:[A-Za-z0-9_-]*|\*)(?:\.(?:[A-Za-z0-9_-]*|\*))*(?:\.>)?\Z|>\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@frozen
class NameRules:
    """How names are checked at the door: each returns the name as a plain str, or raises ValueError.

    told_apart_by(topic): two topics for which it is the same cannot be there side by side.
    """

    topic: Callable[[object], str]
    pattern: Callable[[object], str]
    group: Callable[[object], str]
    told_apart_by: Callable[[str], str] = str


def is_ours(topic: str) -> bool:
    """Whether a topic has a name that this library would give one, and can be used on every backend."""
    try:
        check_topic(topic)
    except ValueError:
        return False
    return True


def _kafka_topic(topic: object) -> str:
    if not isinstance(topic, str) or len(topic) > MAX_KAFKA_TOPIC or not _KAFKA_TOPIC.match(topic) or _is_dots(topic):
        raise BadValue(
            f"bad topic {show(topic)}: 1 to {MAX_KAFKA_TOPIC} characters of A-Z a-z 0-9 . _ -, not '.' or '..'"
        )
    return exact(topic)


def _kafka_pattern(topic: object) -> str:
    if not isinstance(topic, str) or not ("*" in topic or ">" in topic):
        return _kafka_topic(topic)
    if len(topic) > MAX_KAFKA_TOPIC or not _KAFKA_PATTERN.match(topic):
        raise BadValue(
            f"bad topic pattern {show(topic)}: 1 to {MAX_KAFKA_TOPIC} characters of A-Z a-z 0-9 . _ -, "
            "'*' for one whole part, '>' for the rest"
        )
    return exact(topic)


def _kafka_group(group: object) -> str:
    if not isinstance(group, str) or not 0 < len(group) <= MAX_KAFKA_GROUP or _CONTROL.search(group):
        raise BadValue(f"bad group {show(group)}: 1 to {MAX_KAFKA_GROUP} characters, none of them a control character")
    if group[0] == " ":
        raise BadValue(f"bad group {show(group)}: librdkafka leaves the blank in front out, which is another group")
    try:
        group.encode()
    except UnicodeEncodeError as error:
        raise BadValue(f"bad group {show(group)}: not valid Unicode") from error
    return exact(group)


def names_apart(*subjects: str) -> NameRules:
    """Our own rule without the topics that are, or begin with, some subjects of NATS."""

    def apart(check: Callable[[object], str]) -> Callable[[object], str]:
        def checked(topic: object) -> str:
            name = check(topic)
            check_apart(name, *subjects)
            return name

        return checked

    return NameRules(apart(check_topic), apart(check_pattern), check_group)


def _kafka_metric(topic: str) -> str:
    """Kafka names metrics after topics with dots as underscores, and makes no topic whose metrics are another's."""
    return topic.replace(".", "_")


def _is_dots(topic: str) -> bool:
    return topic in (".", "..")


OUR_NAMES = NameRules(check_topic, check_pattern, check_group)
"""The rule for names that are made. NATS has no other: in a subject a blank or a line break is another command."""
KAFKA_NAMES = NameRules(_kafka_topic, _kafka_pattern, _kafka_group, _kafka_metric)
"""Whatever Kafka takes: topics and groups of other programs can be used where they exist."""
