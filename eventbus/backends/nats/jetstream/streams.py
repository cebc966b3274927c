"""Finding, making and judging streams: one per first part of a topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import Factory, frozen

from .... import log
from ....config import NatsConfig
from ....errors import EventBusError
from ....message import matches
from ..link.requests import Forbidden, NoResponders
from .api import NO_PEERS, SECOND, STREAM_EXISTS, SUBJECTS_OVERLAP, JetStreamApi
from .asking import ApiError, Asking, JsonObject

logger = log.get(__name__)

DUPLICATE_WINDOW = 600
"""Seconds for which a stream that is made knows the ids of its messages."""
SHORT_WINDOW = 60
"""Seconds below which somebody else's is worth a warning: an outage may last longer."""
REPLICAS = 3
"""Where there is a cluster: what one server may be lost of."""
_LIMITS = ("max_msgs", "max_bytes", "max_age", "max_msgs_per_subject")
_WILD = ("*", ">")
_WINDOW_LIMITED = "duplicates window can not be larger then server limit"
"""In an error that has no number of its own."""


class StreamRefused(EventBusError):
    """A stream cannot be made, or cannot be used: the text says why."""


@frozen
class Stream:
    """A stream as it is. incarnation: its name and when it was made; sequences count within it.

    last: its last sequence when it was asked. confirms_nothing: why no publish to it is confirmed, "" where it is.
    """

    name: str
    incarnation: str
    last: int
    subjects: tuple[str, ...] = ()
    confirms_nothing: str = ""

    @property
    def is_known(self) -> bool:
        """Whether its incarnation is: else another stream of this name would look the same."""
        return not self.incarnation.endswith("@")

    @property
    def is_public(self) -> bool:
        """Whether patterns that begin with a wildcard read it: no dead letters, no key-value buckets."""
        return not self.subjects or not all(
            subject == "dlq" or subject.startswith(("dlq.", "$")) for subject in self.subjects
        )


@frozen
class Place:
    """Where a topic is stored. subjects: all that the stream takes."""

    stream: str
    subjects: tuple[str, ...]


@frozen
class Learned:
    """What the sessions of a bus learn for each other.

    warned: names of streams that were complained about, to do so once. places: streams that were published to, by name.
    foreign: first parts of topics whose streams were not made by the library: it will not make one in their place.
    """

    warned: set[str] = Factory(set)
    places: dict[str, Place] = Factory(dict)
    foreign: set[str] = Factory(set)


class Streams:
    """The streams as one session sees them; its methods are questions. clustered: whether the server is one of several.

    Each set in `learned` is changed by single steps; several threads may ask.
    """

    def __init__(self, api: JetStreamApi, config: NatsConfig, clustered: bool, learned: Learned) -> None:
        self._api = api
        self._config = config
        self._clustered = clustered
        self._learned = learned
        self._unseen: set[str] = set()
        """Streams that nobody tells us of."""

    def ensure(self, topic: str, guess: bool = True) -> Asking[list[str]]:
        """The streams that hold this topic or pattern, made if there are none. StreamRefused; NotConnectedError.

        guess: where they may not be looked for, it is the one that we would make; else Forbidden.

        None, for a pattern, where none may be made: the first part is a wildcard, or `create_streams` is off.
        """
        token = topic.partition(".")[0]
        try:
            names = yield from self.find(topic)
        except Forbidden:
            if token in _WILD or not guess:
                raise
            return [token]  # the name that it has where we made it
        if names or token in _WILD:
            return names
        if not self._config.create_streams:
            if is_wild(topic):
                return []
            raise StreamRefused(f"no stream takes {topic!r}, and create_streams is off")
        if token in self._learned.foreign:
            raise StreamRefused(f"no stream takes {topic!r}, and those of {token!r} are not made by eventbus")
        names = yield from self._make(token, topic)
        return names

    def find(self, topic: str) -> Asking[list[str]]:
        """The streams that hold this topic or overlap this pattern; the one that is configured."""
        if self._config.stream_name is not None:
            return [self._config.stream_name]
        try:
            names = yield from self._api.names(topic)
        except ApiError as error:
            raise StreamRefused(f"cannot look for the stream of {topic!r}: {error}") from error
        return names

    def look_at(self, name: str, topic: str) -> Asking[Stream]:
        """A stream as it is, for a topic; warns once of settings that lose messages. ApiError."""
        if name in self._unseen:
            return Stream(name, f"{name}@", 0)
        try:
            answer = yield from self._api.call(f"STREAM.INFO.{name}")
        except (Forbidden, NoResponders) as error:
            logger.debug("stream %r is used as it is: %s", name, error)
            if isinstance(error, NoResponders):  # it took a while
                self._unseen.add(name)
            return Stream(name, f"{name}@", 0)
        config = answer.get("config") or {}
        reasons = (("no_ack", "confirms no publish"), ("sealed", "takes no messages"))
        refused = [f"stream {name!r} is set to {one}: it {why}" for one, why in reasons if config.get(one)]
        if (problems := doubts(config)) and name not in self._learned.warned:
            self._learned.warned.add(name)
            logger.warning("stream %r: %s", name, "; ".join(problems))
        subjects = tuple(str(subject) for subject in config.get("subjects") or ())
        self._note_maker(name, subjects, topic)
        last = (answer.get("state") or {}).get("last_seq") or 0
        return Stream(name, f"{name}@{answer.get('created')}", int(last), subjects, "".join(refused[:1]))

    def place_of(self, topic: str) -> Asking[Place | None]:
        """Where a topic is published to, made if there is nothing; None where that cannot be known.

        StreamRefused, ApiError, Forbidden, NotConnectedError.
        """
        names = yield from self.ensure(topic, guess=False)
        stream = yield from self.look_at(names[0], topic)
        if stream.confirms_nothing:
            raise StreamRefused(stream.confirms_nothing)
        if stream.subjects and not any(matches(subject, topic) for subject in stream.subjects):
            raise StreamRefused(f"stream {stream.name!r} does not take {topic!r}")
        return Place(stream.name, stream.subjects) if stream.subjects else None

    def _note_maker(self, name: str, subjects: tuple[str, ...], topic: str) -> None:
        token = topic.partition(".")[0]
        if name == token and {*subjects} == {*_subjects_of(token)}:
            self._learned.foreign.discard(token)
        elif token not in _WILD:
            self._learned.foreign.add(token)

    def _make(self, token: str, topic: str) -> Asking[list[str]]:
        wanted = self._wanted(token)
        try:
            yield from self._create(wanted)
        except ApiError as error:
            if error.number in (STREAM_EXISTS, SUBJECTS_OVERLAP):
                # Somebody was faster; what they made may do.
                if names := (yield from self.find(topic)):
                    return names
                text = f"no stream holds {topic!r}, and {token!r} cannot be made beside those there are"
                raise StreamRefused(f"{text}: {error}") from error
            raise StreamRefused(f"stream {token!r} cannot be made: {error}") from error
        return [token]

    def _create(self, wanted: JsonObject) -> Asking[None]:
        operation = f"STREAM.CREATE.{wanted['name']}"
        try:
            yield from self._api.call(operation, wanted)
        except ApiError as error:
            if _WINDOW_LIMITED in str(error) and "duplicate_window" not in self._config.stream:
                allowed = {key: value for key, value in wanted.items() if key != "duplicate_window"}
                logger.warning("stream %r: made with the server's own duplicate window: %s", wanted["name"], error)
                yield from self._create(allowed)
                return
            replicas = wanted["num_replicas"]
            if error.number not in NO_PEERS or "num_replicas" in self._config.stream or replicas == 1:
                raise
            logger.warning("stream %r: no place for %d replicas, made with one: %s", wanted["name"], replicas, error)
            yield from self._api.call(operation, {**wanted, "num_replicas": 1})
        logger.info("made stream %r", wanted["name"])

    def _wanted(self, token: str) -> dict[str, Any]:
        settings = dict(self._config.stream)
        longest = settings.get("max_age") or 0
        window = DUPLICATE_WINDOW * SECOND
        defaults = {
            "storage": "file",
            "retention": "limits",
            "num_replicas": REPLICAS if self._clustered else 1,
            "duplicate_window": min(window, longest) if longest else window,
        }
        return {**defaults, **settings, "name": token, "subjects": list(_subjects_of(token))}


def is_wild(topic: str) -> bool:
    """Whether it is a pattern: more streams may hold it, now or later."""
    return "*" in topic or ">" in topic


def _subjects_of(token: str) -> tuple[str, str]:
    return token, f"{token}.>"


def doubts(config: Mapping[str, Any]) -> list[str]:
    """What in a stream's settings can lose messages or store them twice."""
    found = []
    limits = [f"{name}={config[name]}" for name in _LIMITS if (config.get(name) or 0) > 0]
    if limits and config.get("discard", "old") == "old":
        found.append(f"the oldest messages are dropped at its limits ({', '.join(limits)}), handled or not")
    retention = config.get("retention")
    if retention == "interest":
        found.append("interest retention: what is published while no group exists is confirmed and not stored")
    elif retention == "workqueue":
        found.append("work queue retention: only one group can read a topic")
    if config.get("subject_transform"):
        found.append("it stores messages under other topics than they are published to, and is read under those")
    window = (config.get("duplicate_window") or 0) / SECOND
    if window < SHORT_WINDOW:
        found.append(f"a duplicate window of {window:g} s: a message sent again after an outage may be stored twice")
    return found
