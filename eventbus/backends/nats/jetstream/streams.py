"""Finding, making and judging streams: one per first part of a topic."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from .... import log
from ....config import NatsConfig
from ....errors import EventBusError
from ....threads import Deadline
from ..link.connection import Forbidden
from .api import NO_PEERS, SECOND, STREAM_EXISTS, SUBJECTS_OVERLAP, ApiError, JetStreamApi

logger = log.get(__name__)

DUPLICATE_WINDOW = 600
SHORT_WINDOW = 60
_CLUSTER = 3
_LIMITS = ("max_msgs", "max_bytes", "max_age", "max_msgs_per_subject")


class StreamRefused(EventBusError):
    """A stream cannot be made, or cannot be used: the text says why."""


@frozen
class Stream:
    """A stream that may be used. incarnation: its name and when it was made; sequences count within it."""

    name: str
    incarnation: str
    last: int
    """Its last sequence when it was asked."""
    subjects: tuple[str, ...] = ()

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


class Streams:
    """The streams as one session sees them. warned: names complained about before, in any session."""

    def __init__(self, api: JetStreamApi, config: NatsConfig, servers: int, warned: set[str]) -> None:
        self._api = api
        self._settings = config.stream
        self._servers = servers
        self._warned = warned
        self._lock = threading.Lock()

    def ensure(self, topic: str, deadline: Deadline) -> list[str]:
        """The streams that hold this topic or pattern, made if there are none.

        StreamRefused; NotConnectedError. A first part that is a wildcard makes nothing.
        """
        token = topic.partition(".")[0]
        try:
            names = self.find(topic, deadline)
        except Forbidden:
            if token in ("*", ">"):
                raise
            return [token]  # the name that it has where we made it
        if not names and token not in ("*", ">"):
            names = self._make(token, topic, deadline)
        return names

    def find(self, topic: str, deadline: Deadline) -> list[str]:
        """The streams that hold this topic or overlap this pattern."""
        try:
            return list(self._api.names(topic, deadline))
        except ApiError as error:
            raise StreamRefused(f"cannot look for the stream of {topic!r}: {error}") from error

    def adopt(self, name: str, deadline: Deadline) -> Stream:
        """A stream that may be used; warns once of settings that lose messages. StreamRefused, ApiError."""
        try:
            answer = self._api.call(f"STREAM.INFO.{name}", None, deadline)
        except Forbidden as error:
            logger.debug("stream %r is used as it is: %s", name, error)
            return Stream(name, f"{name}@", 0)
        config = answer.get("config") or {}
        for setting, reason in (("no_ack", "confirms no publish"), ("sealed", "takes no messages")):
            if config.get(setting):
                raise StreamRefused(f"stream {name!r} is set to {setting}: it {reason}")
        if problems := doubts(config):
            with self._lock:
                news = name not in self._warned
                self._warned.add(name)
            if news:
                logger.warning("stream %r: %s", name, "; ".join(problems))
        last = (answer.get("state") or {}).get("last_seq") or 0
        subjects = tuple(str(subject) for subject in config.get("subjects") or ())
        return Stream(name, f"{name}@{answer.get('created')}", int(last), subjects)

    def _make(self, token: str, topic: str, deadline: Deadline) -> list[str]:
        wanted = self._wanted(token)
        try:
            return self._create(wanted, deadline)
        except ApiError as error:
            if error.number in (STREAM_EXISTS, SUBJECTS_OVERLAP):
                # Somebody was faster; what they made may do.
                if names := self.find(topic, deadline):
                    return names
                text = f"no stream holds {topic!r}, and {token!r} cannot be made beside those there are"
                raise StreamRefused(f"{text}: {error}") from error
            raise StreamRefused(f"stream {token!r} cannot be made: {error}") from error

    def _create(self, wanted: dict[str, Any], deadline: Deadline) -> list[str]:
        operation = f"STREAM.CREATE.{wanted['name']}"
        try:
            self._api.call(operation, wanted, deadline)
        except ApiError as error:
            replicas = wanted["num_replicas"]
            if error.number not in NO_PEERS or "num_replicas" in self._settings or replicas == 1:
                raise
            logger.warning("stream %r: no place for %d replicas, made with one: %s", wanted["name"], replicas, error)
            self._api.call(operation, {**wanted, "num_replicas": 1}, deadline)
        logger.info("made stream %r", wanted["name"])
        return [wanted["name"]]

    def _wanted(self, token: str) -> dict[str, Any]:
        settings = dict(self._settings)
        longest = settings.get("max_age") or 0
        window = DUPLICATE_WINDOW * SECOND
        defaults = {
            "storage": "file",
            "retention": "limits",
            "num_replicas": 3 if self._servers >= _CLUSTER else 1,
            "duplicate_window": min(window, longest) if longest else window,
        }
        return {**defaults, **settings, "name": token, "subjects": [token, f"{token}.>"]}


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
    window = (config.get("duplicate_window") or 0) / SECOND
    if window < SHORT_WINDOW:
        found.append(f"a duplicate window of {window:g} s: a message sent again after an outage may be stored twice")
    return found
