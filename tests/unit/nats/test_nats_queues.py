"""What waits for a stream, and what is on the wire to it: in order, counted right, and no topic for another's sake."""

from __future__ import annotations

from eventbus.backends.nats.jetstream.on_wire import OnWire
from eventbus.backends.nats.jetstream.routes import Routes
from eventbus.backends.nats.jetstream.sendings import Sendings
from eventbus.backends.nats.jetstream.stream_queue import State, StreamQueue
from eventbus.publishing.records import Batch, Record, number_of


def records(*topics: str, first: int = 1) -> list[Record]:
    return [Record(number, topic, b"", None, None) for number, topic in enumerate(topics, first)]


def test_topics_are_tried_in_turn_each_with_its_oldest() -> None:
    queue = StreamQueue("s", state=State.OPEN)
    queue.topics = {"a", "b", "c"}
    for record in records("a", "a", "b", "c"):
        queue.hold(record)
    tried = []
    for _ in range(4):
        record = queue.next_probe()
        tried.append(number_of(record))
        queue.answered(record.topic, False)
        queue.hold(record)
    assert tried == [1, 3, 4, 1], "and from the start when all were refused"


def test_what_is_refused_when_another_was_stored_is_its_own() -> None:
    queue = StreamQueue("s", state=State.OPEN)
    queue.topics = {"a", "b"}
    queue.answered("a", False)
    assert not queue.suspects("a"), "all may be refused"
    queue.answered("b", True)
    assert queue.suspects("a") and not queue.suspects("b")
    queue.answered("a", True)
    assert not queue.suspects("a")
    alone = StreamQueue("s", state=State.OPEN)
    alone.topics = {"a"}
    alone.answered("a", False)
    alone.answered("a", True)
    assert not alone.suspects("a"), "there is nothing to part from"


def test_what_is_about_to_go_out_counts_and_can_be_called_back() -> None:
    wire = OnWire()
    wire.send(Batch(records("a", "b", "a")))
    wire.send_next(Batch(records("a", "b", first=4)))
    assert (wire.count("a"), wire.count("b")) == (3, 2)
    assert [number_of(record) for record in wire.call_back({"a"})] == [4]
    assert (wire.count("a"), wire.count("b")) == (2, 2)
    following = wire.take_next()
    assert following is not None and following.numbers == [5]
    assert wire.take_next() is None
    assert [number_of(record) for record, _ in wire.sent_of({"a"})] == [1, 3]
    assert wire.first_of("b") is not None
    assert wire.pop(2) is not None and wire.pop(2) is None
    assert wire.first_of("b") is None


def test_a_topic_that_parts_takes_its_share_of_what_is_on_the_wire() -> None:
    wire = OnWire()
    wire.send(Batch(records(*["s.a"] * 2, *["s.b"] * 3)))
    routes = Routes({}, wire)
    queue = routes.queue_of("s.a")
    routes.queue_of("s.b")
    queue.state, queue.flying = State.OPEN, 5
    for record in records("s.a", "s.b", "s.a"):
        queue.hold(record)
    own = routes.split(queue, "s.a")
    assert (own.flying, queue.flying) == (2, 3)
    assert (sorted(own.held), sorted(queue.held)) == ([1, 3], [2])
    assert routes.queue_of("s.a") is own and routes.queue_of("s.b") is queue
    assert routes.split(own, "s.a") is own, "it has parted"


def test_what_waits_is_given_back_once_until_it_is_sent_again() -> None:
    """A second time it could be withdrawn between the two, and be sent all the same."""

    class Answers:
        def __init__(self) -> None:
            self.was_returned: list[int] = []

        def returned(self, record: Record, cause: str) -> None:
            self.was_returned.append(number_of(record))

        def given(self, record: Record) -> bool:
            return True

    answers = Answers()
    sendings = Sendings(answers)  # type: ignore[arg-type]
    (record,) = records("a")
    sendings.refused(record, "full")
    sendings.refused(record, "full")
    assert answers.was_returned == [1]
    assert sendings.again(record)
    sendings.refused(record, "full")
    assert answers.was_returned == [1, 1]
    sendings.forget(1)
    sendings.unanswered(record, 0.0)
    sendings.refused(record, "full")
    assert answers.was_returned == [1, 1], "a sending of it may be stored"
