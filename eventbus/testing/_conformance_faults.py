"""The fault chapter of the conformance suite: outages, judged by what became of each message."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import pytest

from ..config_delivery import RetryConfig
from ..consuming.batches import Batch
from ..consuming.subscriptions import BROADCAST, SubscriptionState
from ..errors import PublishNotSentError, PublishUnknownError, ReplayError
from ..message import Message
from ..reports import ReplayReport
from ._conformance_outages import GROUP, LONG, FaultGround
from .history import History
from .traffic import publish_until_answered
from .wait import wait_until

SLACK = 3.0
"""Seconds over its timeout that a call may take on a busy machine."""
SOON = RetryConfig(initial_backoff=0.01, max_backoff=0.05, max_attempts=3)


class FaultConformance(FaultGround):
    """What becomes of messages when the broker is killed, frozen or cut off, and when sessions are swapped."""

    # -- sessions are swapped --------------------------------------------------------------------

    def test_sessions_swapped_under_load_lose_nothing(self) -> None:
        bus = self.open_quick()
        self.listen(bus, concurrency=3)
        with self.traffic(bus) as traffic:
            for number in range(1, 4):
                bus.reconnect(timeout=LONG)
                assert bus.get_connection_state().reconnect_count >= number
                traffic.more(timeout=LONG)
        # Where nothing is kept both sessions are at work for a moment, and which one gets a message is the server's.
        self.judge(bus, ordered=bus.features.ordered_by_key)
        self.stored_once(bus)

    def test_sessions_swapped_while_handlers_fail_lose_nothing(self) -> None:
        bus, tries = self.open_quick(retry=SOON), dict[str, int]()

        def work(message: Message) -> None:
            tries[message.text()] = tries.get(message.text(), 0) + 1
            if message.text().endswith("3") and tries[message.text()] < 3:
                raise ValueError("not yet")

        self.listen(bus, handler=self.history.handler_of(work), concurrency=3)
        with self.traffic(bus) as traffic:
            for _ in range(2):
                bus.reconnect(timeout=LONG)
                traffic.more(timeout=LONG)
        self.judge(bus, ordered=bus.features.ordered_by_key)

    def test_members_that_come_and_go_under_load_lose_nothing(self) -> None:
        first = self.open_quick()
        self.need(first, replays="what a member had not finished is lost")
        self.listen(first)
        with self.traffic(first) as traffic:
            for _ in range(2):
                other = self.open_quick()
                self.listen(other)
                traffic.more(timeout=LONG)
                assert other.close(5.0).unfinished_threads == ()
        self.judge(first)

    # -- the broker is killed --------------------------------------------------------------------

    def test_killed_and_restarted_under_load_nothing_confirmed_is_lost(self) -> None:
        bus = self.open_quick()
        self.listen(bus, concurrency=3)
        with self.traffic(bus) as traffic:
            for _ in range(2):
                self.strike(bus)
                self.broker.restore()
                self.wait_well(bus)
                traffic.more(timeout=LONG)
        self.judge(bus)
        self.stored_once(bus)

    def test_an_ordered_group_is_in_order_whatever_dies(self) -> None:
        bus = self.open_quick()
        self.need(bus, ordered_groups="there are no ordered groups")
        self.listen(bus, concurrency=3, ordered=True)
        with self.traffic(bus) as traffic:
            self.strike(bus)
            self.broker.restore()
            self.wait_well(bus)
            traffic.more(timeout=LONG)
        self.judge(bus, ordered=True)

    def test_what_was_confirmed_is_there_after_the_broker_was_killed(self) -> None:
        bus = self.open_quick()
        self.need(bus, durable="nothing is kept on a disk")
        self.send(bus, *range(50))
        self.strike(bus)
        self.broker.restore()
        self.wait_well(bus)
        self.listen(bus)
        self.judge(bus)
        assert self.history.handled == 50

    def test_what_is_published_during_an_outage_is_stored_after_it_in_order(self) -> None:
        bus = self.open_quick()
        self.listen(bus)
        self.send(bus, 0)
        self.strike(bus)
        payloads = [self.history.payload("k", number) for number in range(1, 51)]
        waiting = [bus.publish_async(self.topic, payload, key="k") for payload in payloads]
        self.broker.restore()
        for payload, future in zip(payloads, waiting, strict=True):
            self.history.confirm(payload, future.result(LONG))
        self.judge(bus)
        self.stored_once(bus)
        assert bus.get_statistics().in_flight == 0

    def test_nowait_and_flush_tell_the_truth_about_an_outage(self) -> None:
        bus = self.open_quick()
        self.listen(bus)
        self.send(bus, 0)
        self.strike(bus)
        for number in range(1, 51):
            bus.publish_nowait(self.topic, self.history.payload("k", number).encode(), key="k")
        report = bus.flush(timeout=0.2)
        assert report.failed == ()
        assert report.unanswered == 50 or self.broker.partial
        self.broker.restore()
        report = bus.flush(timeout=LONG)
        assert (report.unanswered, report.failed) == (0, ())
        if bus.features.replays:
            wait_until(lambda: self.history.handled == 51, LONG, message=self.history.summary)
        self.judge(bus)

    def test_a_publish_in_an_outage_ends_in_time_with_what_is_true(self) -> None:
        bus = self.open_quick()
        self.send(bus, 0)
        self.strike(bus)
        payload, started = self.history.payload("k", 1), time.monotonic()
        try:
            self.history.confirm(payload, bus.publish(self.topic, payload, key="k", id=f"{self.prefix}-1", timeout=0.3))
        except (PublishNotSentError, PublishUnknownError) as error:
            assert error.id == f"{self.prefix}-1"
        assert time.monotonic() - started < 0.3 + SLACK
        self.broker.restore()
        self.wait_well(bus)
        self.listen(bus)
        receipt = bus.publish(self.topic, payload, key="k", id=f"{self.prefix}-1", timeout=LONG)
        self.history.confirm(payload, receipt)
        self.judge(bus)
        self.stored_once(bus)

    def test_every_member_of_a_group_goes_on_after_an_outage(self) -> None:
        one, two = self.open_quick(), self.open_quick()
        self.need(one, replays="what was sent to a member of before is lost")
        self.listen(one)
        self.listen(two)
        with self.traffic(one) as traffic:
            self.strike(one, two)
            self.broker.restore()
            self.wait_well(one, two)
            traffic.more(timeout=LONG)
        self.judge(one)

    def test_a_broadcast_copy_goes_on_where_it_was(self) -> None:
        bus = self.open_quick()
        self.need(bus, replays="what comes while the link is replaced is missed")
        for _ in range(2):
            self.listen(bus, group=BROADCAST)
        with self.traffic(bus):
            self.strike(bus)
            self.broker.restore()
            self.wait_well(bus)
        self.judge(bus, copies=2)

    def test_subscribed_paused_and_unsubscribed_during_an_outage(self) -> None:
        bus, other = self.open_quick(), History()
        paused = self.listen(bus)
        gone = self.listen(bus, handler=other.handler, group="gone")
        self.strike(bus)
        paused.pause()
        assert bus.unsubscribe(gone, timeout=2.0)
        late = bus.subscribe(f"{self.prefix}.late", self.history.handler, group=GROUP)
        self.broker.restore()
        self.wait_well(bus)
        wait_until(lambda: late.state is SubscriptionState.ACTIVE, LONG)
        self.ready(bus)
        self.send(bus, 0, 1)
        publish_until_answered(bus, self.history, f"{self.prefix}.late", "late", 0)
        wait_until(lambda: self.history.handled == 1, LONG, message=self.history.summary)
        paused.resume()
        wait_until(lambda: self.history.handled == 3, LONG, message=self.history.summary)
        self.judge(bus)
        assert other.handled == 0

    # -- handlers in an outage -------------------------------------------------------------------

    def test_a_handler_that_fails_during_an_outage_is_tried_again_in_order(self) -> None:
        bus, entered, gate, calls = self.open_quick(retry=SOON), threading.Event(), self.gate(), list[str]()
        self.need(bus, replays="what was in hand at an outage is lost")

        def work(message: Message) -> None:
            entered.set()
            gate.wait(LONG)
            calls.append(message.text())
            if calls.count("k:0") < 3 and message.text() == "k:0":
                raise ValueError("the other side is away, too")

        self.listen(bus, handler=self.history.handler_of(work))
        self.send(bus, *range(5))
        assert entered.wait(LONG)
        self.strike(bus)
        gate.set()
        wait_until(lambda: calls.count("k:0") >= 1, LONG)
        self.broker.restore()
        self.wait_well(bus)
        self.send(bus, 5)
        self.judge(bus)
        assert self.history.dead_lettered == 0

    def test_a_dead_letter_of_an_outage_is_confirmed_after_it(self) -> None:
        bus, entered, gate = self.open_quick(retry=SOON), threading.Event(), self.gate()
        self.need(bus, replays="what was in hand at an outage is lost")

        def work(message: Message) -> None:
            entered.set()
            gate.wait(LONG)
            if message.key == "bad":
                raise ValueError("never")

        self.listen(bus, topic=f"dlq.{GROUP}.{self.topic}", handler=self.history.undertaker, group="undertaker")
        self.listen(bus, handler=self.history.handler_of(work), concurrency=2)
        self.send(bus, 0, key="bad")
        self.send(bus, 0, 1, 2)
        assert entered.wait(LONG)
        self.strike(bus)
        gate.set()
        self.broker.restore()
        self.wait_well(bus)
        self.send(bus, 3)
        self.judge(bus)
        assert (self.history.dead_lettered, self.history.handled) == (1, 4)

    def test_a_replay_that_an_outage_ends_tells_what_may_be_stored(self) -> None:
        bus, letters, count = self.open_quick(), f"dlq.{GROUP}.{self.topic}", 40
        self.need(bus, readable="nothing is stored")
        origin = [("Eventbus-Dead-Topic", self.topic.encode())]
        bus.publish(self.topic, "first")
        bus.publish_many([Message(letters, str(number), headers=origin) for number in range(count)])

        def strike(message: Message) -> bool:
            if message.text() == str(count // 2):
                self.strike(bus)
            return True

        told: list[ReplayReport] = []
        with suppress(ReplayError):  # where a part of the broker is left it may do without
            bus.replay_dead_letters(letters, filter=strike, timeout=1.0, progress=told.append)
        report = told[-1]
        self.broker.restore()
        self.wait_well(bus)
        assert bus.flush(timeout=LONG).unanswered == 0
        bus.publish(self.topic, "last")
        stored = sum("Eventbus-Dead-Replays" in message.headers for message in bus.read(self.topic))
        assert report.replayed <= stored <= report.replayed + report.unanswered, report
        bus.replay_dead_letters(letters, start=report.next)
        assert {message.text() for message in bus.read(self.topic)} == {"first", "last", *map(str, range(count))}

    def test_batches_of_an_outage_lose_nothing(self) -> None:
        bus = self.open_quick()

        def handler(batch: Batch) -> None:
            for message in batch:
                self.history.handler(message)

        self.listen(bus, handler=handler, batch=(10, 0.05))
        with self.traffic(bus) as traffic:
            self.strike(bus)
            self.broker.restore()
            self.wait_well(bus)
            traffic.more(timeout=LONG)
        self.judge(bus)

    # -- frozen, cut, black-holed ----------------------------------------------------------------

    def test_frozen_under_load_nothing_confirmed_is_lost(self) -> None:
        bus = self.open_quick()
        self.listen(bus, concurrency=3)
        with self.traffic(bus) as traffic:
            self.strike(bus, verb="freeze")
            self.broker.thaw()
            self.wait_well(bus)
            traffic.more(timeout=LONG)
        self.judge(bus)
        self.stored_once(bus)

    def test_links_cut_under_load_lose_nothing(self) -> None:
        bus = self.open_quick()
        self.listen(bus, concurrency=3)
        with self.traffic(bus) as traffic:
            for _ in range(3):
                self.broker.cut()
                traffic.more(timeout=LONG)
        self.wait_well(bus)
        self.judge(bus)
        self.stored_once(bus)

    def test_links_in_a_black_hole_are_replaced_and_nothing_is_lost(self) -> None:
        bus = self.open_quick()
        self.listen(bus)
        with self.traffic(bus) as traffic:
            self.strike(bus, verb="half_open")
            self.wait_well(bus)
            traffic.more(timeout=LONG)
        self.judge(bus, ordered=bus.features.ordered_by_key)
        self.stored_once(bus)

    # -- closed in an outage ---------------------------------------------------------------------

    @pytest.mark.parametrize("verb", ["kill", "freeze"])
    def test_close_during_an_outage_is_in_time_and_its_report_is_true(self, verb: str) -> None:
        bus = self.open_quick()
        self.listen(bus)
        self.send(bus, 0)
        self.strike(bus, verb=verb)
        payload = self.history.payload("k", 1)
        waiting, started = bus.publish_async(self.topic, payload, key="k", id=f"{self.prefix}-1"), time.monotonic()
        report = bus.close(timeout=1.0)
        assert time.monotonic() - started < 1.0 + SLACK
        error = waiting.exception(1.0)
        assert report.unanswered == (error is not None)
        assert error is None or isinstance(error, (PublishNotSentError, PublishUnknownError))
        self.broker.heal()
        left = set(report.unfinished_threads)
        wait_until(lambda: left.isdisjoint(thread.name for thread in threading.enumerate()), LONG)
        other = self.open_quick()
        self.listen(other)
        self.history.confirm(payload, other.publish(self.topic, payload, key="k", id=f"{self.prefix}-1", timeout=LONG))
        self.judge(other)
        self.stored_once(other)

    def test_what_was_unfinished_at_a_close_during_an_outage_goes_to_the_next_process(self) -> None:
        first, entered, gate = self.open_quick(), threading.Event(), self.gate()
        self.need(first, replays="what is not acknowledged is lost")

        def stuck(message: Message) -> None:
            self.history.deliver(message.text())
            entered.set()
            gate.wait(LONG)

        self.listen(first, handler=stuck)
        self.send(first, *range(5))
        assert entered.wait(LONG)
        self.strike(first)
        started = time.monotonic()
        first.close(timeout=0.5)
        assert time.monotonic() - started < 0.5 + SLACK
        self.broker.restore()
        second = self.open_quick()
        self.listen(second)
        self.judge(second)
