"""A message's headers, read in a way that no bytes in them can end the process."""

from __future__ import annotations

from collections.abc import Sequence
from gc import get_referents
from operator import methodcaller
from typing import Any

from confluent_kafka import Message

from .... import log

logger = log.get(__name__)

Fields = Sequence[tuple[str, "bytes | None"]]

_headers = methodcaller("headers")
"""Not `message.headers()`: the interpreter, once it knows the place, would no longer see that an error came with it."""
_LOST = "\udcff"
"""For a name that nobody can tell any more; like the others it cannot be published, and is shown as an escape."""
_MOST_TOPICS = 1_000

_told: set[str] = set()


def fields_of(message: Message) -> Fields:
    """The headers as they are stored: (name, value or None), in order, ours among them.

    A name that is not UTF-8 has lone surrogates for the bytes that are none (PEP 383). confluent_kafka leaves a null
    pointer in its place, and may or may not raise as well: what it returns is counted before anybody looks at it,
    and mended for good. Where several names of one message are so, only the first is known.
    """
    try:
        fields: Any = _headers(message)
    except (SystemError, UnicodeError) as error:
        return _mended(message, error)
    if not fields:
        return ()
    if len(get_referents(*fields)) == 2 * len(fields):
        return fields  # type: ignore[no-any-return]
    return _mended(message, None)


def fields_of_all(messages: Sequence[Message]) -> list[Fields]:
    """`fields_of` each of these, counted together: a third of the time for a column of 500."""
    found: list[Any] = []
    while len(found) < len(messages):
        try:
            found.extend(map(_headers, messages[len(found) :]))
        except (SystemError, UnicodeError) as error:  # what came before it is there
            found.append(_mended(messages[len(found)], error))
    fields = get_referents(*found)
    if len(get_referents(*fields)) != 2 * len(fields):
        return [fields_of(message) for message in messages]
    return [one or () for one in found]


def _mended(message: Message, error: BaseException | None) -> Fields:
    try:
        fields: Any = _headers(message) or ()
    except (SystemError, UnicodeError):
        fields = ()  # a version that refuses them for good
    names = _names_behind(error)
    whole = []
    for field in fields:
        there = get_referents(field)  # passes over what is null, as the garbage collector does
        whole.append((names.pop() if names else _LOST, there[0]) if len(there) == 1 else field)
    if fields:
        fields[:] = whole
    _tell(message.topic() or "")
    return whole


def _names_behind(error: BaseException | None) -> list[str]:
    """The name that could not be decoded, in a list; an empty one where it is not known."""
    while error is not None:
        if isinstance(error, UnicodeDecodeError):
            return [error.object.decode("utf-8", "surrogateescape")]
        error = error.__cause__
    return []


def _tell(topic: str) -> None:
    if topic in _told or len(_told) >= _MOST_TOPICS:
        return
    _told.add(topic)
    logger.warning("%s: the name of a header is not UTF-8, and shown with escapes; later ones are not told", topic)
