"""Dead letters: messages that no handler took, published to a topic of their own with the reason beside them."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from hashlib import sha256
from typing import Protocol

from ..copies import Copy
from ..fields import RawHeaders, show
from ..message import Delivery, Message, matches
from ..names import NameRules

PREFIX = "Eventbus-Dead-"
"""What the names of the headers begin with that a dead letter has and the message had not."""
ERROR, REASON, ATTEMPTS, TOPIC, PARTITION, OFFSET, GROUP, TIME = (
    PREFIX + name for name in ("Error", "Reason", "Attempts", "Topic", "Partition", "Offset", "Group", "Time")
)
REPLAYS = PREFIX + "Replays"
"""How often the message had been published again when it failed; a replayed message has this header alone of them."""
LEFT_OUT = PREFIX + "Left-Out"
"""The header that names what a dead letter could not take with it."""
MOST_NAMES, LONGEST_NAME = 10, 40
"""Headers that are named there, and characters of each."""
LONGEST_REASON = 500
"""Characters of an error's text that are kept."""
_DIGEST = 8
"""Hexadecimal digits at the end of a topic's name that would not be its own otherwise."""
_DIGITS = 9
"""Of a number of replays, at most: a header may be anybody's."""

_ILLEGAL = re.compile(r"[^A-Za-z0-9_-]+")
_BLANK = re.compile(r"[\x00-\x20\x7f-\x9f]+")

Answered = Callable[[Exception | None], object]
"""Called once, on any thread: None, the broker has confirmed it; else why it is not certain to be stored."""


class Letterbox(Protocol):
    """Where dead letters are published."""

    def __call__(self, copy: Copy, answered: Answered) -> Callable[[], str]:
        """Publish, and say what became of it; never blocks.

        Returns what says why the broker takes it not for now, "" where it said no such thing.
        """


def default_topic(group: str, topic: str, names: NameRules) -> str:
    """A topic that no other group and topic have: `dlq.<group>.<topic>`.

    Where that does not tell where the group ends, or is not legal or too long, it is made so, and ends in a digest of
    both.
    """
    if "." not in group:
        with suppress(ValueError):
            return names.topic(f"dlq.{group}.{topic}")
    digest = sha256(f"{group}\n{topic}".encode(errors="surrogatepass")).hexdigest()[:_DIGEST]
    for length in (64, 32, 16):
        parts = [
            ".".join(filter(None, (_ILLEGAL.sub("_", part) for part in name.split(".")))) for name in (group, topic)
        ]
        short = ".".join(part[:length].strip(".") or "_" for part in parts)
        try:
            return names.topic(f"dlq.{short}-{digest}")
        except ValueError:
            continue
    return names.topic(f"dlq.{digest}")


class DeadLetters:
    """Where the dead letters of one subscription in a group go, and how they are made.

    given: the one topic for all of them; None: one for each of its topics, see `default_topic`.
    """

    def __init__(self, group: str, given: str | None, names: NameRules, publish: Letterbox) -> None:
        self._group = group
        self._given = given
        self._names = names
        self._publish = publish

    def topic_of(self, topic: str) -> str:
        """Where the dead letters of a topic go."""
        return self._given or default_topic(self._group, topic, self._names)

    def send(
        self, delivery: Delivery, error: BaseException, attempts: int, answered: Answered, *, bare: bool = False
    ) -> Callable[[], str]:
        """Publish a message as it is, with the headers that say why; never blocks. Returns what the letterbox does.

        bare: without what other programs have put beside the payload, for where a broker or a client refuses that.
        """
        place = f"{delivery.topic}/{delivery.partition}/{delivery.offset}"
        id = (None if bare and not _is_plain(delivery.id) else delivery.id) or place
        replays = replays_of(delivery)
        key, kept = delivery.raw_key, without_reasons(delivery)
        reasons = self._reasons(delivery, error, attempts, replays)
        if bare:
            left = [show(name, LONGEST_NAME) for name, _ in kept[:MOST_NAMES]]
            if key is not None and not _is_plain_key(key):
                left, key = [f"key {show(key, LONGEST_NAME)}", *left], None
            shown, kept = ", ".join(left), ()
            reasons = (*reasons, (LEFT_OUT, _cleaned(shown).encode(errors="backslashreplace")))
        stamp = delivery.timestamp
        once = f"{place}/{stamp.timestamp() if stamp is not None else ''}"
        stored_as = f"{id}/dlq/{self._group}/{once}" + (f"/{replays}" if replays else "")
        copy = Copy(self.topic_of(delivery.topic), delivery.payload, key, (*kept, *reasons), id, stored_as)
        return self._publish(copy, answered)

    def _reasons(self, delivery: Delivery, error: BaseException, attempts: int, replays: int) -> RawHeaders:
        kind = type(error)
        values = {
            ERROR: _cleaned(f"{kind.__module__}.{kind.__qualname__}"),
            REASON: _cleaned(_text_of(error)) or _cleaned(kind.__name__),
            ATTEMPTS: attempts,
            TOPIC: delivery.topic,
            PARTITION: delivery.partition,
            OFFSET: delivery.offset,
            GROUP: self._group,
            TIME: datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            REPLAYS: replays or None,
        }
        return tuple(
            (name, str(value).encode(errors="backslashreplace")) for name, value in values.items() if value is not None
        )


def _text_of(error: BaseException) -> str:
    """An error's text, whatever its class makes of that."""
    try:
        return str(error)
    except Exception:  # of the user's class
        return "an error whose text cannot be had"


def _cleaned(text: str) -> str:
    """On one line, and not too long."""
    return _BLANK.sub(" ", text)[:LONGEST_REASON].strip()


def _is_plain(id: str | None) -> bool:
    return id is not None and id.isascii() and id.isprintable() and " " not in id


def _is_plain_key(key: bytes) -> bool:
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return False
    return text.isprintable() and text == text.strip()


def replays_of(message: Message) -> int:
    """How often a message was published again from a dead letter; 0 where its header is no such number."""
    value = message.headers.get(REPLAYS, "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) <= _DIGITS else 0


def without_reasons(message: Message) -> RawHeaders:
    """The headers that a message had before it was a dead letter."""
    return tuple([field for field in message.raw_headers if not field[0].startswith(PREFIX)])


def comes_back(pattern: str, group: str, names: NameRules, given: str | None) -> bool:
    """Whether a subscription's own dead letters would come to it."""
    some_topic = pattern.replace("*", "x").replace(">", "x")
    return matches(pattern, given or default_topic(group, some_topic, names))
