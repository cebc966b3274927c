"""What is committed of several topics at once: none pays for another, and each position says of which topic it is."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import KafkaError, TopicPartition

from eventbus.backends.kafka.consuming.commits import Commits
from eventbus.backends.kafka.consuming.in_hand import KafkaInHand
from eventbus.backends.kafka.consuming.partition_state import PartitionState

REFUSED = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
GOOD, SECRET = ("good", 0), ("secret", 0)


class Group:
    """Two topics of a group with their readers; a request with a forbidden topic is refused whole, as by librdkafka."""

    def __init__(self) -> None:
        self.readers: dict[Any, Any] = {}
        for where in (GOOD, SECRET):
            state = PartitionState(where, 0, f"id of {where[0]}")
            state.begin(0)
            told: dict[str, Any] = {}
            self.readers[where] = SimpleNamespace(
                lock=threading.RLock(), states={where: state}, told=told.__setitem__, shown=told
            )
        self.commits = Commits(self.readers.get, 0.0, "test", commits=True)
        self.requests: list[list[TopicPartition]] = []
        self.forbidden = {"secret"}

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        self.requests.append(offsets)

    def done(self, offset: int) -> None:
        """Both are done up to there, which is committed and answered."""
        for where, reader in self.readers.items():
            reader.states[where].offsets.forget_below(offset)
            self.commits.note(reader, [reader.states[where]])
        self.again()

    def again(self) -> None:
        self.requests.clear()
        self.commits.send_if_due(self, at_once=True)
        for request in list(self.requests):
            refused = REFUSED if self.forbidden & {one.topic for one in request} else None
            self.commits.answered(refused, request)

    def acked(self, where: Any) -> int:
        return int(self.readers[where].states[where].acked)

    def trouble(self, where: Any) -> str:
        return str(self.readers[where].shown.get(f"commit {where[0]}") or "")


def test_a_refusal_of_one_topic_is_not_its_neighbour_s() -> None:
    group = Group()
    group.done(5)
    assert (group.acked(GOOD), group.trouble(GOOD), group.trouble(SECRET)) == (-1, "", "")
    group.again()
    assert group.acked(GOOD) == 5
    assert group.trouble(GOOD) == ""
    assert "secret: what is done is not committed" in group.trouble(SECRET)
    group.done(7)
    assert sorted({one.topic for one in request} == {"secret"} for request in group.requests) == [False, True]
    assert (group.acked(GOOD), group.acked(SECRET)) == (7, -1)
    group.forbidden = set()
    group.again()
    assert (group.acked(SECRET), group.trouble(SECRET)) == (7, "")
    group.done(9)
    assert len(group.requests) == 1, "together again"
    assert group.commits.is_settled


def test_a_position_says_of_which_topic_it_is() -> None:
    group = Group()
    group.done(5)
    assert [one.metadata for one in group.requests[0]] == ["topic-id=id of good", "topic-id=id of secret"]


def test_a_broker_that_gives_topics_no_ids_is_committed_to_all_the_same() -> None:
    group = Group()
    group.forbidden = set()
    for where, reader in group.readers.items():
        reader.states[where].topic_id = None
    group.done(5)
    assert [one.metadata for one in group.requests[0]] == ["", ""]
    assert (group.acked(GOOD), group.acked(SECRET)) == (5, 5)


def test_what_is_stored_after_the_partition_went_is_known_to_be() -> None:
    group = Group()
    group.forbidden = set()
    state = group.readers[GOOD].states[GOOD]
    state.offsets.forget_below(3)
    group.commits.send(group, {state: group.readers[GOOD]})
    del group.readers[GOOD]
    group.commits.answered(None, group.requests[0])
    assert state.acked == 3


def test_the_states_of_a_topic_that_was_made_anew_are_new() -> None:
    in_hand = KafkaInHand()
    assert not in_hand.bind("good", "first")
    with in_hand.lock:
        state = in_hand.state_of(GOOD)
        assert in_hand.state_of(GOOD) is state
        assert not in_hand.bind("good", "first")
        assert in_hand.bind("good", "second")
        anew = in_hand.state_of(GOOD)
    assert anew is not state
    assert (state.topic_id, anew.topic_id) == ("first", "second")
