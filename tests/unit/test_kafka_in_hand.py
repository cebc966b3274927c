"""What is in hand of a partition: nothing is lost, nothing is started twice, nothing is committed too early."""

from __future__ import annotations

import time
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eventbus.backends.kafka.consuming.assignment import Assignment
from eventbus.backends.kafka.consuming.batches import KafkaBatch
from eventbus.backends.kafka.consuming.deliveries import KafkaDelivery
from eventbus.backends.kafka.consuming.in_hand import KafkaInHand, batch_lease
from eventbus.backends.kafka.consuming.intake import Intake, split
from eventbus.backends.kafka.consuming.offsets import Offsets
from eventbus.backends.kafka.consuming.partition_state import PartitionState
from eventbus.consuming.lease import Lease

PLACE = ("orders", 0)
OTHERS = [("orders", 1), ("bills", 0)]
EOF = KafkaError(KafkaError._PARTITION_EOF)
LENGTH = 24


def made(offset: int, place: tuple[str, int] = PLACE, error: Any = None) -> Message:
    return Message(topic=place[0], partition=place[1], offset=offset, error=error)


def offsets_of(batch: list[KafkaDelivery]) -> list[int]:
    return [delivery.message.offset() or 0 for delivery in batch]


def take(intake: Intake, messages: list[Message]) -> tuple[list[KafkaDelivery], list[KafkaError]]:
    """What it makes of them, all batches together; each is of one state."""
    runs, found = split(messages)
    errors = [error for error, _ in found]
    batches = [batch for where, ones in runs for batch in intake.take(where, ones)]
    assert all(len({one.token for one in batch}) == 1 for batch in batches)
    return [one for batch in batches for one in batch], errors


Copy = tuple[int, KafkaDelivery, Lease, bool]


class OnePartition(RuleBasedStateMachine):
    """A partition that comes and goes, with a lane that is late: it starts, ends and drops in the order of arrival."""

    @initialize(gaps=st.sets(st.integers(0, LENGTH - 1), max_size=6))
    def begin(self, gaps: set[int]) -> None:
        self.stored = [offset for offset in range(LENGTH) if offset not in gaps]
        self.in_hand = KafkaInHand()
        self.lane: deque[Copy] = deque()
        self.running: Copy | None = None
        self.done: set[int] = set()
        """Handled, here or by another member."""
        self.group = 0
        """What the broker has as committed."""
        self.member: object | None = None
        self.states: dict[tuple[str, int], PartitionState] = {}
        self.fetch_from = 0

    # -- what may happen -------------------------------------------------------------------------

    @precondition(lambda self: self.member is None)
    @rule(more=st.integers(0, 5))
    def assigned(self, more: int) -> None:
        """It is ours, after another member has done some more (or none)."""
        if more:
            for offset in [one for one in self.stored if self.group <= one < self.group + more]:
                self.done.add(offset)
            self.group = min(LENGTH, self.group + more)
        self.member = object()
        with self.in_hand.lock:
            state = self.in_hand.state_of(PLACE)
            state.assign(self.member)
        self.states = {PLACE: state}
        self.fetch_from = self.group

    @precondition(lambda self: self.member is not None)
    @rule(count=st.integers(1, 8))
    def fetched(self, count: int) -> None:
        """Some messages come; what the state lets through goes to the lane."""
        ahead = [offset for offset in self.stored if offset >= self.fetch_from][:count]
        if not ahead:
            return
        with self.in_hand.lock:
            batches = Intake(self.states, self.in_hand).take(PLACE, [made(one) for one in ahead])
            for batch in batches:
                lease = batch_lease(batch)
                admitted = self.in_hand.admit(batch, lease)
                offsets = offsets_of([*batch])
                assert not admitted.finished
                self.lane += [(at, one, lease, admitted.check) for at, one in zip(offsets, batch, strict=True)]
        self.fetch_from = ahead[-1] + 1
        assert self.states[PLACE] is self.in_hand.states[PLACE], "taken for a topic that was made anew"

    @precondition(lambda self: self.lane and self.running is None)
    @rule()
    def started(self) -> None:
        """The lane looks at the next one."""
        offset, delivery, lease, check = copy = self.lane.popleft()
        if lease.ended:
            self.in_hand.drop([delivery], lease)
        elif not check or self.in_hand.claims(delivery):
            assert offset not in self.done or offset < self.group, "handled again though it is known to be done"
            left = [one for one in self.stored if self.group <= one < offset and one not in self.done]
            assert not left, "it overtakes what was given back"
            self.running = copy

    @precondition(lambda self: self.running)
    @rule()
    def finished(self) -> None:
        """A handler is done."""
        assert self.running is not None
        offset, delivery, _, _ = self.running
        self.running = None
        self.in_hand.finish([delivery])
        self.done.add(offset)

    @precondition(lambda self: self.running)
    @rule()
    def given_back(self) -> None:
        """A handler has failed, and it is not tried again here."""
        assert self.running is not None
        _, delivery, lease, _ = self.running
        self.running = None
        self.in_hand.drop([delivery], lease)

    @precondition(lambda self: self.member is not None)
    @rule()
    def went_back(self) -> None:
        """The owner looks after what was given back."""
        with self.in_hand.lock:
            if self.states[PLACE].rewind:
                self.fetch_from = self.states[PLACE].go_back()

    @precondition(lambda self: self.member is not None)
    @rule(acked=st.booleans())
    def committed(self, acked: bool) -> None:
        """The owner commits; the broker's answer may be lost."""
        state = self.states[PLACE]
        with self.in_hand.lock:
            offset = state.committable
            if offset is None:
                return
            state.requested = offset
            if acked:
                state.acked = max(state.acked, offset)
                self.group = max(self.group, offset)
        assert all(one in self.done for one in self.stored if one < offset), "committed past what is not done"

    @precondition(lambda self: self.member is not None)
    @rule()
    def taken_away(self) -> None:
        with self.in_hand.lock:
            self.states[PLACE].lose()
        self.states, self.member = {}, None

    # -- what must hold --------------------------------------------------------------------------

    @invariant()
    def it_knows_what_the_lane_has(self) -> None:
        state = self.in_hand.states.get(PLACE)
        if state is not None and state.offsets is not None:
            assert state.copies == len(self.lane) + (self.running is not None)
            assert state.offsets.committed <= state.offsets.position

    def teardown(self) -> None:
        """Left in peace, everything is handled and committed to the end."""
        if not hasattr(self, "in_hand"):
            return
        if self.member is None:
            self.assigned(0)
        for _ in range(4):
            self.went_back()
            while any(offset >= self.fetch_from for offset in self.stored):
                self.fetched(7)
            while self.lane or self.running:
                if self.running:
                    self.finished()
                else:
                    self.started()
        assert self.done >= set(self.stored), f"lost: {sorted(set(self.stored) - self.done)}"
        state = self.states[PLACE]
        assert not state.busy
        if self.stored and state.offsets is not None:
            assert state.offsets.committed > max(self.stored) or self.group > max(self.stored)


TestOnePartition = OnePartition.TestCase
TestOnePartition.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


RUNS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), min_size=1, max_size=10)
"""Of offsets that are handed out: the gap before each, and its length."""


@given(RUNS, st.randoms())
def test_runs_with_gaps_finished_in_any_order_end_at_the_position(runs: list[tuple[int, int]], chance: Any) -> None:
    offsets, at, handed = Offsets(0), 0, list[int]()
    for gap, length in runs:
        offsets.hand_out(at + gap, at + gap + length)
        handed += range(at + gap, at + gap + length)
        at += gap + length
    chance.shuffle(handed)
    left = set(handed)
    for offset in handed:
        assert offsets.committed == min(left)
        assert offsets.unfinished == len(left)
        offsets.finish(offset, offset + 1)
        left.discard(offset)
        offsets.finish(offset, offset + 1)  # again: nothing happens
    assert (offsets.committed, offsets.unfinished) == (at, 0)


@given(RUNS, st.integers(1, 7), st.randoms())
def test_many_at_once_are_finished_as_one_by_one(runs: list[tuple[int, int]], many: int, chance: Any) -> None:
    together, singly, at, handed = Offsets(0), Offsets(0), 0, list[int]()
    for gap, length in runs:
        for offsets in (together, singly):
            offsets.hand_out(at + gap, at + gap + length)
        handed += range(at + gap, at + gap + length)
        at += gap + length
    handed += [at, at + 1, *chance.sample(handed, len(handed) // 2)]  # not handed out, and again
    chance.shuffle(handed)
    for begin in range(0, len(handed), many):
        together.finish_each(handed[begin : begin + many])
        for offset in handed[begin : begin + many]:
            singly.finish(offset, offset + 1)
        assert (together.committed, together.unfinished) == (singly.committed, singly.unfinished)
    assert (together.committed, together.unfinished) == (at, 0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["hand out", "finish", "forget"]), st.integers(0, 4), st.integers(1, 4)), max_size=30
)


@given(STEPS)
def test_what_is_out_is_what_was_handed_out_and_neither_done_nor_below(steps: list[tuple[str, int, int]]) -> None:
    offsets, out = Offsets(0), set[int]()
    for step, where, length in steps:
        if step == "hand out":
            first = offsets.position + where
            offsets.hand_out(first, first + length)
            out |= {*range(first, first + length)}
        elif step == "finish":
            first = offsets.committed + where
            offsets.finish(first, first + length)
            out -= {*range(first, first + length)}
        else:
            below = offsets.committed + where
            offsets.forget_below(below)
            out = {one for one in out if one >= below}
        everything = range(offsets.position + 3)
        assert {one for one in everything if offsets.is_out(one)} == out
        assert offsets.out_between(0, offsets.position + 3) == sorted(out)
        assert (offsets.unfinished, offsets.committed) == (len(out), min(out, default=offsets.position))


def test_a_gap_behind_each_message_costs_little() -> None:
    """As where each is a transaction: its end is a marker. Thousands of them are in hand behind one that is stuck."""

    def cost(stride: int) -> float:
        offsets, handed = Offsets(0), range(0, 4000 * stride, stride)
        for one in handed:
            offsets.hand_out(one, one + 1)
        began = time.process_time()
        for one in handed[1:1000]:
            offsets.finish(one, one + 1)
        return time.process_time() - began

    assert cost(2) < 30 * cost(1)


def taking(*offsets: int) -> tuple[KafkaInHand, Intake, dict[tuple[str, int], PartitionState]]:
    """A in_hand whose partition is assigned, and has handed out and finished these."""
    in_hand = KafkaInHand()
    with in_hand.lock:
        state = in_hand.state_of(PLACE)
        state.assign(object())
        states = {PLACE: state}
        intake = Intake(states, in_hand)
        batch, _ = take(intake, [made(offset) for offset in offsets])
    in_hand.finish(batch)
    return in_hand, intake, states


def test_a_topic_that_was_made_anew_is_read_from_its_beginning() -> None:
    in_hand, intake, states = taking(0, 1, 2, 3)
    old = states[PLACE]
    with in_hand.lock:
        batch, _ = take(intake, [made(0), made(1)])
    assert offsets_of(batch) == [0, 1]
    assert states[PLACE] is in_hand.states[PLACE] is not old
    assert batch[0].identity != old.base, "an identity of the topic that was"


def test_so_is_one_that_was_made_anew_while_it_was_not_ours() -> None:
    in_hand, _, states = taking(0, 1, 2, 3)
    states[PLACE].acked = 4
    with in_hand.lock:
        states[PLACE].assign(object())
        batch, _ = take(Intake(states, in_hand), [made(0), made(1)])
    assert offsets_of(batch) == [0, 1]


def test_what_its_operator_sets_back_is_handled_again() -> None:
    """While the group had no member: this one was frozen for longer than its session, say."""
    in_hand, _, states = taking(*range(10))
    reader: Any = SimpleNamespace(lock=in_hand.lock, in_hand=in_hand, attachment=SimpleNamespace(start="earliest"))
    states[PLACE].acked = 10
    for position in (10, 5):
        assert Assignment._start(reader, PLACE, TopicPartition(*PLACE, position)) == position
        with in_hand.lock:
            states[PLACE] = state = in_hand.state_of(PLACE)
            state.assign(object())
            state.begin(position)
    with in_hand.lock:
        batch, _ = take(Intake(states, in_hand), [made(offset) for offset in range(5, 10)])
    assert offsets_of(batch) == [5, 6, 7, 8, 9]


def test_what_was_done_and_not_committed_comes_again_and_is_only_committed() -> None:
    in_hand, _, states = taking(0, 1, 2, 3)
    with in_hand.lock:
        states[PLACE].assign(object())
        assert states[PLACE].committable is None, "where the group stands is not known yet"
        batch, _ = take(Intake(states, in_hand), [made(2), made(3), made(4)])
        assert (offsets_of(batch), states[PLACE].committable) == ([4], 4)
    assert in_hand.duplicates == 2


def test_what_the_broker_has_deleted_is_not_waited_for() -> None:
    in_hand, intake, states = taking()
    with in_hand.lock:
        batch, _ = take(intake, [made(offset) for offset in range(3)])
    in_hand.drop(batch[:1], states[PLACE].lease)
    in_hand.finish(batch[1:])
    with in_hand.lock:
        assert states[PLACE].go_back() == 0
        batch, _ = take(intake, [made(7)])
        assert offsets_of(batch) == [7]
        assert states[PLACE].committable == 7
        assert not states[PLACE].rewind


def test_nothing_overtakes_what_was_given_back() -> None:
    in_hand, intake, states = taking()
    with in_hand.lock:
        batch, _ = take(intake, [made(offset) for offset in range(4)])
    first = states[PLACE].lease
    in_hand.finish(batch[:1])
    in_hand.drop(batch[1:3], first)
    assert first.ended, "the fourth is not started: it comes again"
    with in_hand.lock:
        assert offsets_of(take(intake, [made(4), made(5)])[0]) == []
        assert states[PLACE].go_back() == 1
        again, _ = take(intake, [made(offset) for offset in range(1, 8)])
        assert in_hand.admit(again, states[PLACE].lease).check
    in_hand.drop(batch[3:], first)
    assert offsets_of(again) == [1, 2, 3, 4, 5, 6, 7]
    assert (in_hand.duplicates, states[PLACE].rewind, states[PLACE].copies) == (0, False, 7)


def test_errors_among_the_messages_pass_nothing_over() -> None:
    in_hand, intake, _ = taking()
    with in_hand.lock:
        batch, errors = take(intake, [made(0), made(1, error=EOF), made(1)])
    assert (offsets_of(batch), errors) == ([0, 1], [EOF])


def test_partitions_that_are_not_ours_are_left_out_wherever_they_stand() -> None:
    in_hand, intake, _ = taking()
    other = ("orders", 1)
    messages = [made(0), made(1, other), made(1), made(2, other), made(2)]
    with in_hand.lock:
        batch, _ = take(intake, messages)
    assert offsets_of(batch) == [0, 1, 2]
    assert {delivery.token.where for delivery in batch} == {PLACE}


RUNS = st.lists(
    st.builds(
        lambda begin, count, place, error: [made(begin + one, place, error) for one in range(count)],
        st.integers(0, 8),
        st.integers(1, 4),
        st.sampled_from([PLACE, PLACE, *OTHERS]),
        st.sampled_from([None, None, None, EOF]),
    ),
    min_size=1,
    max_size=3,
).map(lambda runs: [message for run in runs for message in run])


@given(st.lists(RUNS, min_size=1, max_size=4))
def test_a_run_that_is_taken_as_one_is_as_if_one_by_one(batches: list[list[Message]]) -> None:
    together, apart = twin(), twin()
    for batch in batches:
        assert shown(*take(together, batch)) == shown(*one_by_one(apart, batch))
    for place, state in together._states.items():
        other = apart._states[place]
        assert (state.known, state._fetched, state.base) == (other.known, other._fetched, other.base)
        assert (state.offsets is None, len(together._in_hand)) == (other.offsets is None, len(apart._in_hand))
    assert together._in_hand.duplicates == apart._in_hand.duplicates


@pytest.mark.parametrize("other", OTHERS)
def test_offsets_that_go_on_in_another_partition_are_no_run(other: tuple[str, int]) -> None:
    batch, _ = take(twin(PLACE, other), [made(0), made(1), made(2, other), made(3, other)])
    assert [one.token.where for one in batch] == [PLACE, PLACE, other, other]
    assert [one.topic for one in batch] == [PLACE[0]] * 2 + [other[0]] * 2


def twin(*places: tuple[str, int]) -> Intake:
    """Of a consumer that has these partitions, or two of three."""
    in_hand = KafkaInHand()
    with in_hand.lock:
        states = {place: in_hand.state_of(place) for place in places or (PLACE, OTHERS[0])}
        for state in states.values():
            state.assign(in_hand)
    return Intake(states, in_hand)


def one_by_one(intake: Intake, messages: list[Message]) -> tuple[list[KafkaDelivery], list[KafkaError]]:
    runs, found = split(messages)
    errors = [error for error, _ in found]
    batches = [
        batch for where, ones in runs for batch in intake._one_by_one(where, ones, [one.offset() or 0 for one in ones])
    ]
    return [one for batch in batches for one in batch], errors


def shown(batch: list[KafkaDelivery], errors: list[KafkaError]) -> Any:
    return [(one.message, one.topic, one.identity, one.token.where) for one in batch], errors


def test_a_run_is_a_sequence_whose_parts_are_runs() -> None:
    state = KafkaInHand().new_state(PLACE)
    messages = [made(offset) for offset in range(5, 10)]
    run = KafkaBatch(messages, PLACE[0], state, state.base + 5)
    assert [one.identity - state.base for one in run] == [5, 6, 7, 8, 9]
    assert (run[0].message, run[-1].message, run[-1].identity) == (messages[0], messages[-1], state.base + 9)
    part = run[1:3]
    assert (part.first, part.end, len(part)) == (state.base + 6, state.base + 8, 2)
    assert shown([*run[2:]], []) == shown([*run][2:], [])
    assert not run[5:]
    with pytest.raises(IndexError):
        run[5]
    with pytest.raises(ValueError, match="gaps"):
        run[::2]
