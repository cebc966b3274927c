"""A subscription at work: what is delivered, retried, acknowledged, released, dropped and counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fakes import FEATURES, consumption

from eventbus import ErrorEvent, EventBusError
from eventbus.config import EventBusConfig
from eventbus.consuming import consumption as module
from eventbus.consuming.arguments import Arguments
from eventbus.consuming.consumers import Consumers
from eventbus.consuming.in_hand import InHandByIdentity
from eventbus.consuming.lease import Lease
from eventbus.message import Delivery
from eventbus.testing import wait_until


class Session:
    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.released: list[int] = []
        self.resumed = 0

    def acknowledge(self, attachment: Any, deliveries: Sequence[Delivery]) -> None:
        self.acknowledged.extend(one.token for one in deliveries)

    def lag(self, attachment: Any) -> int | None: ...

    def partitions(self, attachment: Any) -> tuple[Any, ...]:
        return ()

    def release(self, attachment: Any, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        self.released.extend(one.token for one in deliveries)

    def resume(self, attachment: Any) -> None:
        self.resumed += 1

    def attach(self, attachments: Any) -> None: ...

    def detach(self, attachment: Any, timeout: float) -> None: ...


def batch(*numbers: int) -> list[Delivery]:
    made = []
    for number in numbers:
        one = Delivery("t", str(number), key="k")
        one.identity, one.token = number, number
        made.append(one)
    return made


class Rig:
    def __init__(self, handler: Any, replays: bool = True, **options: Any) -> None:
        self.events: list[ErrorEvent] = []
        self.session = Session()
        self.consumption = consumption(handler=handler, replays=replays, report=self.events.append, **options)
        self.consumption.attachment = self.consumption.attachment_to(self.session)
        self.lease = self.consumption.in_hand.lease

    def deliver(self, batch: Sequence[Delivery]) -> bool:
        assert self.consumption.attachment is not None
        return self.consumption.attachment.deliver(batch, self.lease)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    made = threading.Event()
    yield made
    made.set()


def test_what_was_handled_is_acknowledged_and_counted() -> None:
    rig = Rig(lambda message: None)
    assert rig.deliver(batch(1, 2, 3))
    assert rig.consumption.finish(5.0) == ()
    assert rig.session.acknowledged == [1, 2, 3]
    assert rig.consumption.counts() == {
        "delivered": 3,
        "handled": 3,
        "failed": 0,
        "retried": 0,
        "duplicates": 0,
        "dropped": 0,
        "dead_lettered": 0,
    }


def test_a_redelivery_of_what_was_finished_is_acknowledged_without_the_handler() -> None:
    calls: list[str] = []
    rig = Rig(lambda message: calls.append(message.text()))
    rig.deliver(batch(1))
    wait_until(lambda: rig.session.acknowledged == [1])
    rig.deliver(batch(1, 2))
    wait_until(lambda: rig.session.acknowledged == [1, 1, 2])
    rig.consumption.stop(5.0)
    assert calls == ["1", "2"]
    assert rig.consumption.counts()["duplicates"] == 1


def test_retries_go_on_with_growing_pauses_until_it_works() -> None:
    calls: list[str] = []

    def handler(message: Delivery) -> None:
        calls.append(message.text())
        if calls.count("1") < 4:
            raise ValueError("not yet")

    rig = Rig(handler)
    rig.deliver(batch(1, 2))
    wait_until(lambda: rig.session.acknowledged == [1, 2])
    rig.consumption.stop(5.0)
    assert calls == ["1", "1", "1", "1", "2"]
    assert rig.consumption.counts()["retried"] == 3
    assert [(event.source, event.topic) for event in rig.events] == [("handler", "t")] * 3
    assert all(event.message is not None for event in rig.events)


def test_a_stop_interrupts_the_pause_between_retries(gate: threading.Event) -> None:
    def handler(message: Delivery) -> None:
        raise ValueError("never")

    rig = Rig(handler)
    rig.deliver(batch(1, 2))
    wait_until(lambda: rig.events)
    assert rig.consumption.stop(1.0) == ()
    assert (rig.session.acknowledged, rig.session.released) == ([], [1, 2])
    assert rig.consumption.unhandled == 0


def test_full_lanes_pause_the_session_and_resume_it(gate: threading.Event) -> None:
    rig = Rig(lambda message: gate.wait(20.0) and None, prefetch=4)
    assert not rig.deliver(batch(1, 2, 3, 4))
    assert rig.session.resumed == 0
    gate.set()
    wait_until(lambda: rig.session.resumed == 1)
    assert rig.consumption.finish(5.0) == ()


def test_where_nothing_is_redelivered_full_lanes_drop_count_and_report_once(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    monkeypatch.setattr(module, "HIGH_WATER_UNSTORED", 3)
    rig = Rig(lambda message: gate.wait(20.0), replays=False)
    rig.deliver(batch(1, 2, 3))
    for number in range(4, 8):
        assert not rig.deliver(batch(number))
    counts = rig.consumption.counts()
    assert (counts["delivered"], counts["dropped"]) == (3, 4)
    assert [event.source for event in rig.events] == ["subscription"]
    assert isinstance(rig.events[0].error, EventBusError), "what is told is of the library's own kind"
    gate.set()
    rig.consumption.finish(5.0)
    assert rig.session.acknowledged == []


def test_where_nothing_is_redelivered_large_messages_fill_the_lanes_sooner(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    monkeypatch.setattr(module, "MOST_UNSTORED_BYTES", 3000)
    rig = Rig(lambda message: gate.wait(20.0), replays=False)
    for number in range(5):
        rig.deliver([Delivery("t", bytes(1000))])
        assert rig.consumption.counts()["dropped"] == max(0, number - 2)
    rig.deliver([Delivery("t", b"")])
    assert rig.consumption.counts()["dropped"] == 2, "there is room for small ones"
    gate.set()
    rig.consumption.finish(5.0)


def test_counters_survive_an_unsubscribe_and_what_still_runs_then(gate: threading.Event) -> None:
    config = EventBusConfig(name="test")
    consumers = Consumers(config, FEATURES, lambda ordered: InHandByIdentity(), lambda event: None)
    entered = threading.Event()

    def handler(message: Delivery) -> None:
        entered.set()
        gate.wait(20.0)

    sub, session = consumers.add(Arguments("t", handler, "g")), Session()
    (attachment,) = consumers.subscriptions.unattached(session)
    consumers.subscriptions.attach(session, [attachment])
    attachment.deliver(batch(1, 2), Lease())
    assert entered.wait(5.0)
    assert consumers.remove(sub, 0.05) == ("eventbus.test.lane-t-0",)
    assert (consumers.counts().delivered, consumers.counts().handled) == (2, 0)
    gate.set()
    wait_until(lambda: consumers.counts().handled == 1)
    assert (session.acknowledged, session.released) == ([1], [2])
    assert consumers.remove(sub, 1.0) == ()
    assert consumers.counts().delivered == 2


def test_a_pause_that_crosses_a_resume_is_told_as_it_is() -> None:
    rig = Rig(lambda message: None)
    consumption, lanes = rig.consumption, rig.consumption._lanes
    resume = lanes.resume

    def crossed() -> None:
        consumption.pause()
        resume()

    lanes.resume = crossed  # type: ignore[method-assign]
    consumption.resume()
    assert consumption.status().paused == bool(lanes.halts)
