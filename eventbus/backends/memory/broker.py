"""The memory broker: topics, groups, and the outages that tests ask for."""

from __future__ import annotations

import threading
from datetime import datetime
from enum import Enum
from typing import Any
from weakref import WeakKeyDictionary

from ...config import MemoryConfig
from ...consuming.in_hand import newest
from ...consuming.subscriptions import Subscription
from ...copies import stored_as
from ...errors import PublishNotSentError
from ...forks import let_go_in_child
from ...message import matches
from ...publishing.records import Record, topic_of
from .groups import Group, Member
from .topics import Topic

REMEMBERED_IDS = 20_000
"""Ids of a topic that are known at least; at most twice as many. More would not fit the processor's cache."""


class Condition(Enum):
    """How the broker is, as far as clients can tell."""

    UP = "up"
    REFUSING = "refusing"
    FROZEN = "frozen"


class MemoryBroker:
    """Shared by all backends with the same name. Its lock is held for local work only."""

    def __init__(self, config: MemoryConfig) -> None:
        self._config = config
        self._most = config.max_messages
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.condition = Condition.UP
        self.delay = 0.0
        self.refused_topics: dict[str, Exception] = {}
        self.break_at: str | None = None
        """The step at which the next session dies: "prepare", "attach" or "publish"."""
        self.sessions: list[Any] = []
        self.sleeping: set[Any] = set()
        self._topics: dict[str, Topic] = {}
        self._groups: dict[tuple[str, str], Group] = {}
        self._broadcasts: WeakKeyDictionary[Subscription, Group] = WeakKeyDictionary()

    # -- messages, under the lock ----------------------------------------------------------------

    def store(self, record: Record, id: str) -> tuple[int, int, bool]:
        """Store a message once; its partition, its offset and whether it was there. PublishNotSentError: full."""
        topic = self._topics.get(topic_of(record))
        if topic is None:
            topic = self._new_topic(topic_of(record))
        ids, known_by = topic.ids, stored_as(id)
        known = ids.get(known_by)
        if known is not None:
            offset, partition = divmod(known, topic.partitions)
            return partition, offset, True
        if len(topic) >= self._most:
            self._make_room(topic, id)
        partition, offset = topic.add(record, id)
        # One number: a hundred thousand tuples would be walked by the garbage collector.
        ids[known_by] = offset * topic.partitions + partition
        if len(ids) > 2 * REMEMBERED_IDS:
            topic.ids = newest(ids, REMEMBERED_IDS)
        return partition, offset, False

    def topic(self, name: str) -> Topic | None:
        """The topic of this name; None before anything is stored in it."""
        return self._topics.get(name)

    def topics_of(self, pattern: str) -> list[Topic]:
        """The topics that a pattern covers."""
        return [topic for name, topic in sorted(self._topics.items()) if matches(pattern, name)]

    def group_of(self, sub: Subscription) -> Group:
        """The group that a subscription belongs to, made when it is not there."""
        if sub.group is None:
            group = self._broadcasts.get(sub)
            if group is None:
                group = self._broadcasts[sub] = self._new_group(sub.topic, "latest", durable=False)
        else:
            key = (sub.group, sub.topic)
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = self._new_group(sub.topic, sub.start, durable=True)
        return group

    def leave(self, member: Member, *, for_good: bool) -> None:
        """A member goes."""
        group = self.group_of(member.attachment.sub)
        group.leave(member)
        if for_good:
            self._broadcasts.pop(member.attachment.sub, None)
        self.wake()

    def wake(self) -> None:
        """There is something to fetch for those that sleep."""
        while self.sleeping:
            try:
                self.sleeping.pop().wake()
            except KeyError:
                return  # another thread woke the last one

    def lose_state(self) -> None:
        """Forget topics, groups and ids."""
        self._topics.clear()
        self._groups.clear()
        self._broadcasts.clear()

    # -- inside ----------------------------------------------------------------------------------

    def _all_groups(self) -> list[Group]:
        return [*self._groups.values(), *self._broadcasts.values()]

    def _new_topic(self, name: str) -> Topic:
        topic = self._topics[name] = Topic(name, self._config.partitions)
        for group in self._all_groups():
            if matches(group.pattern, name):
                group.follow(topic, is_new=True)
        return topic

    def _new_group(self, pattern: str, start: str | datetime, *, durable: bool) -> Group:
        group = Group(pattern, start, durable)
        for topic in self._topics.values():
            if matches(pattern, topic.name):
                group.follow(topic, is_new=False)
        return group

    def _make_room(self, topic: Topic, id: str) -> None:
        held = [
            progress.committed for group in self._all_groups() for progress in group.holds() if progress.topic is topic
        ]
        # A tenth at a time: dropping one by one would move the whole list for each message.
        topic.drop_below(min([*held, topic.base + max(1, len(topic) // 10)]))
        if len(topic) >= self._config.max_messages:
            raise PublishNotSentError(
                f"{topic.name}: {len(topic)} messages are kept and a group has acknowledged none of the oldest",
                id,
            )


_brokers: dict[str, MemoryBroker] = {}
_brokers_lock = threading.Lock()


def broker_named(config: MemoryConfig) -> MemoryBroker:
    """The broker of this name in this process; the first one to ask sets its partitions and bounds."""
    with _brokers_lock:
        return _brokers.setdefault(config.name, MemoryBroker(config))


def forget_broker(name: str) -> None:
    """Take a broker out of the process, with all it holds."""
    with _brokers_lock:
        _brokers.pop(name, None)


@let_go_in_child
def _after_fork_in_child() -> None:
    global _brokers_lock  # noqa: PLW0603 - another thread of the parent may have held it
    _brokers_lock = threading.Lock()
    _brokers.clear()  # a child's messages are its own, and so are its parent's
