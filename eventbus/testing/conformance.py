"""What every backend must do, as one suite of tests.

    class TestMemory(BackendConformance):
        def config(self) -> EventBusConfig:
            return EventBusConfig(backend=MemoryConfig(name="conformance"))

        def outages(self) -> Outages:                  # optional: the verbs of the fault chapter
            return MemoryOutages("conformance")

Each test makes its buses with `self.open()` and its topics below `self.prefix`, which no other test uses.
What a backend does not promise (`Features`) is skipped, with the reason, "not applicable: ..."; `skips` adds
reasons by test name. Without `outages` those of the fault chapter that need them are not applicable.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import Any

import pytest

from ..consuming.subscriptions import BROADCAST, SubscriptionState
from ..errors import ClosedError, NotConnectedError, PublishNotSentError, SubscribeError
from ..message import Message
from ..state import ErrorEvent, Phase
from ._conformance import FOREIGN_TOPICS, Inbox
from ._conformance_batches import BatchConformance
from ._conformance_dead_letters import DeadLetterConformance
from ._conformance_delivery import DeliveryConformance
from ._conformance_faults import FaultConformance
from ._conformance_reading import ReadingConformance
from .wait import wait_until

__all__ = ["BackendConformance", "Inbox"]

LATER = 5.0
"""Seconds in which a topic that appears later joins a wildcard subscription."""

BAD_PATTERNS: list[Any] = ["", "a b", "a\r\n", "a\x00", "a.>.b", "a*", "ä", "a" * 250, None, 7, []]
BAD_GROUPS = ["", "a\r\nb", "a\x00", 7]
FOREIGN_GROUPS = ["a b", ".a", "a" * 65, "*", "ä"]


class BackendConformance(
    DeliveryConformance, DeadLetterConformance, BatchConformance, ReadingConformance, FaultConformance
):
    """Subclass it, give it a `config`, and pytest does the rest."""

    # -- consuming -------------------------------------------------------------------------------

    def test_members_of_a_group_share_and_groups_do_not(self) -> None:
        one, two, other = self.open(), self.open(), self.open()
        self.need(one, groups="there are no groups")
        inboxes = Inbox(), Inbox()
        for bus, inbox in zip((one, two), inboxes, strict=True):
            bus.subscribe(self.topic, inbox, group="shared")
        alone = Inbox()
        other.subscribe(self.topic, alone, group="other")
        self.ready(one, two, other)
        published: list[str] = []

        def both_work() -> bool:
            published.append(str(len(published)))
            one.publish(self.topic, published[-1], key=f"k{published[-1]}")
            return all(inbox.messages for inbox in inboxes)

        wait_until(both_work)
        alone.wait(len(published))
        wait_until(lambda: sum(len(inbox.messages) for inbox in inboxes) >= len(published))
        assert Counter(inboxes[0].texts + inboxes[1].texts) == Counter(published)
        assert Counter(alone.texts) == Counter(published)

    def test_a_second_subscription_to_the_same_topic_and_group_is_refused(self) -> None:
        bus, inbox = self.open(), Inbox()
        first = bus.subscribe(self.topic, inbox, group="g")
        with pytest.raises(SubscribeError, match="raise concurrency"):
            bus.subscribe(self.topic, inbox, group="g")
        bus.publish(self.topic, "x")
        inbox.wait(1)
        assert bus.unsubscribe(first)
        bus.subscribe(self.topic, inbox, group="g")
        bus.publish(self.topic, "y")
        inbox.wait(2)
        assert inbox.texts == ["x", "y"]

    def test_a_broadcast_goes_to_everyone_from_now_on(self) -> None:
        buses, inboxes = [self.open(), self.open()], [Inbox(), Inbox(), Inbox()]
        buses[0].publish(self.topic, "before")
        buses[0].subscribe(self.topic, inboxes[0], group=BROADCAST)
        buses[1].subscribe(self.topic, inboxes[1])
        buses[1].subscribe(self.topic, inboxes[2])
        self.ready(*buses)
        for number in range(20):
            buses[0].publish(self.topic, str(number), key="k")
        for inbox in inboxes:
            inbox.wait(20)
            assert inbox.texts == [str(number) for number in range(20)]

    def test_wildcards(self) -> None:
        bus = self.open()
        patterns = {"*": ["a", "b"], ">": ["a", "a.x", "a.x.y", "b"], "*.x": ["a.x"], "a.>": ["a.x", "a.x.y"]}
        inboxes = {pattern: Inbox() for pattern in patterns}
        for number, (pattern, inbox) in enumerate(inboxes.items()):
            bus.subscribe(f"{self.prefix}.{pattern}", inbox, group=f"g{number}")
        for topic in ("a", "a.x", "a.x.y", "b"):
            bus.publish(f"{self.prefix}.{topic}", topic)
        self.all_at_rest_once(bus, sum(map(len, patterns.values())))
        for pattern, expected in patterns.items():
            assert sorted(inboxes[pattern].texts) == expected, pattern

    def test_a_topic_that_appears_later_joins_in_time(self) -> None:
        bus, other, inbox = self.open(), self.open(), Inbox()
        bus.publish(f"{self.prefix}.first", "old")
        bus.subscribe(f"{self.prefix}.*", inbox, group="g")
        bus.publish(f"{self.prefix}.first", "a", key="k")
        wait_until(lambda: "a" in inbox.texts)
        other.publish(f"{self.prefix}.later", "b")
        wait_until(lambda: "b" in inbox.texts, LATER)

    def test_a_new_group_starts_at_the_earliest_or_the_latest(self) -> None:
        bus, earliest, latest = self.open(), Inbox(), Inbox()
        self.need(bus, replays="nothing is stored")
        bus.publish_many([Message(self.topic, str(number), key="k") for number in range(10)])
        bus.subscribe(self.topic, earliest, group="e")
        bus.subscribe(self.topic, latest, group="l", start="latest")
        bus.publish(self.topic, "new", key="k")
        assert [message.text() for message in earliest.wait(11)] == [*map(str, range(10)), "new"]
        assert [message.text() for message in latest.wait(1)] == ["new"]

    def test_a_known_group_goes_on_where_it_was(self) -> None:
        first, second, inbox, rest = self.open(), self.open(), Inbox(), Inbox()
        self.need(first, replays="nothing is stored")
        first.subscribe(self.topic, inbox, group="g")
        first.publish(self.topic, "1", key="k")
        inbox.wait(1)
        assert first.close(5.0).unhandled == 0
        second.publish(self.topic, "2", key="k")
        second.subscribe(self.topic, rest, group="g", start="latest")
        second.publish(self.topic, "3", key="k")
        assert [message.text() for message in rest.wait(2)] == ["2", "3"]

    def test_order_per_key_with_concurrency(self) -> None:
        bus = self.open()
        lock, seen, threads = threading.Lock(), defaultdict[str, list[int]](list), set[int]()
        others = threading.Event()

        def handler(message: Message) -> None:
            if message.key == "key-0" and message.text() == "0":
                assert others.wait(10.0), "one key holds up all the others"
            elif len(threads) == 3 and len(seen) > 3:
                others.set()
            with lock:
                seen[message.key or ""].append(int(message.text()))
                threads.add(threading.get_ident())

        bus.subscribe(self.topic, handler, group="g", concurrency=4)
        keys = [f"key-{number}" for number in range(11)]  # no multiple of the lanes
        bus.publish_many([Message(self.topic, str(number), key=key) for number in range(100) for key in keys])
        wait_until(lambda: bus.get_statistics().handled >= 1100)
        assert dict(seen) == {key: list(range(100)) for key in keys}
        assert len(threads) == 4

    def test_more_than_the_lanes_hold_is_handled_all_the_same(self) -> None:
        bus, gate, count = self.open(), self.gate(), Counter[str]()

        def handler(message: Message) -> None:
            gate.wait(20.0)
            count[message.text()] += 1

        bus.subscribe(self.topic, handler, group="g")
        bus.publish_many([Message(self.topic, str(number)) for number in range(4000)])
        gate.set()
        wait_until(lambda: bus.get_statistics().handled >= 4000, 20.0)
        assert count == Counter(str(number) for number in range(4000))

    def test_a_failing_handler_is_called_again_and_its_key_waits(self) -> None:
        bus, errors, calls = self.open(), list[ErrorEvent](), list[str]()
        bus.register_error_callback(errors.append)

        def handler(message: Message) -> None:
            calls.append(message.text())
            if calls.count("1") < 3 and message.text() == "1":
                raise SystemExit(1) if len(calls) == 1 else ValueError("not yet")

        bus.subscribe(self.topic, handler, group="g")
        for number in (1, 2):
            bus.publish(self.topic, str(number), key="k")
        self.all_at_rest(bus, 2)
        assert calls == ["1", "1", "1", "2"]
        assert bus.get_statistics().retried == 2
        wait_until(lambda: len(errors) == 2)
        assert [(event.source, event.topic, type(event.error)) for event in errors] == [
            ("handler", self.topic, SystemExit),
            ("handler", self.topic, ValueError),
        ]
        assert errors[0].message is not None

    def test_what_was_not_acknowledged_goes_to_the_next_process(self) -> None:
        first, gate, entered = self.open(), self.gate(), threading.Event()
        self.need(first, replays="what is not acknowledged is lost")

        def stuck(message: Message) -> None:
            entered.set()
            gate.wait(30.0)

        first.subscribe(self.topic, stuck, group="g")
        first.publish_many([Message(self.topic, str(number), key="k") for number in range(5)])
        assert entered.wait(5.0)
        report = first.close(0.3)
        assert (report.unanswered, report.unhandled) == (0, 5)
        assert [name for name in report.unfinished_threads if "lane" in name] == list(report.unfinished_threads)
        assert report.unfinished_threads
        second, inbox = self.open(), Inbox()
        second.subscribe(self.topic, inbox, group="g")
        messages = inbox.wait(5, 30.0)
        assert sorted(message.text() for message in messages) == list("01234")
        if second.features.ordered_by_key:
            assert inbox.texts == list("01234")
        if second.features.counts_attempts:
            assert messages[0].attempt >= 2

    # -- ends ------------------------------------------------------------------------------------

    def test_unsubscribed_means_no_more_and_the_others_go_on(self) -> None:
        bus, inbox, other = self.open(), Inbox(), Inbox()
        sub = bus.subscribe(self.topic, inbox, group="g")
        bus.subscribe(self.topic, other, group="other")
        bus.publish(self.topic, "1", key="k")
        inbox.wait(1)
        assert bus.unsubscribe(sub)
        assert bus.unsubscribe(sub)
        assert (sub.state, sub.status().lag, sub.status().partitions) == (SubscriptionState.CLOSED, None, ())
        bus.publish(self.topic, "2", key="k")
        other.wait(2)
        assert inbox.texts == ["1"]
        assert bus.get_statistics().handled == 3
        again = Inbox()
        bus.subscribe(self.topic, again, group="g")
        bus.publish(self.topic, "3", key="k")
        expected = ["2", "3"] if bus.features.replays else ["3"]
        assert [message.text() for message in again.wait(len(expected))] == expected

    def test_what_runs_at_unsubscribe_is_finished_and_the_rest_goes_to_the_group(self) -> None:
        """Where the broker takes nothing back the rest is handled: it would be lost."""
        bus, gate, entered = self.open(), self.gate(), threading.Event()
        started: list[str] = []

        def slow(message: Message) -> None:
            started.append(message.text())
            entered.set()
            gate.wait(20.0)

        sub = bus.subscribe(self.topic, slow, group="g")
        bus.publish_many([Message(self.topic, str(number), key="k") for number in range(4)])
        assert entered.wait(5.0)
        assert not bus.unsubscribe(sub, timeout=0.05)
        gate.set()
        mine = ["0"] if bus.features.replays else ["0", "1", "2", "3"]
        wait_until(lambda: bus.get_statistics().handled == len(mine))
        rest = Inbox()
        bus.subscribe(self.topic, rest, group="g")
        bus.publish(self.topic, "4", key="k")
        expected = ["1", "2", "3", "4"] if bus.features.replays else ["4"]
        given_back = [message.text() for message in rest.wait(len(expected), 30.0)]
        assert (given_back if bus.features.ordered_by_key else sorted(given_back)) == expected
        assert started == mine

    def test_a_handler_may_publish_subscribe_and_unsubscribe(self) -> None:
        bus, inbox, subs = self.open(), Inbox(), list[Any]()

        def handler(message: Message) -> None:
            bus.subscribe(f"{self.prefix}.next", inbox, group="g")
            bus.publish(f"{self.prefix}.next", message.payload + b"!")
            assert bus.unsubscribe(subs[0])

        subs.append(bus.subscribe(self.topic, handler, group="g"))
        bus.publish(self.topic, "x")
        assert [message.text() for message in inbox.wait(1)] == ["x!"]

    def test_subscribed_before_open_and_by_decorator(self) -> None:
        bus, inbox = self.make(), Inbox()

        @bus.on(self.topic, group="g")
        def handler(message: Message) -> None:
            inbox(message)

        with pytest.raises(PublishNotSentError):
            bus.publish(self.topic, "too early")
        bus.open()
        bus.publish(self.topic, "x")
        assert [message.text() for message in inbox.wait(1)] == ["x"]
        assert callable(handler)

    def test_close_lets_handlers_finish_and_says_so(self) -> None:
        bus, entered, gate, done = self.open(), threading.Event(), self.gate(), list[str]()

        def handler(message: Message) -> None:
            entered.set()
            gate.wait(20.0)
            bus.publish(f"{self.prefix}.result", message.payload)
            done.append(message.text())

        bus.subscribe(self.topic, handler, group="g")
        bus.publish_many([Message(self.topic, str(number), key="k") for number in range(3)])
        assert entered.wait(5.0)
        wait_until(lambda: bus.get_statistics().delivered == 3)
        threading.Timer(0.1, gate.set).start()
        report = bus.close()
        assert (report.unanswered, report.unhandled, report.unfinished_threads) == (0, 0, ())
        assert done == ["0", "1", "2"]
        statistics = bus.get_statistics()
        assert (statistics.handled, statistics.published, statistics.confirmed) == (3, 6, 6)

    def test_what_a_handler_that_closes_the_bus_has_done_is_acknowledged(self) -> None:
        bus, handled, inbox = self.open(), list[str](), Inbox()
        self.need(bus, replays="what is not acknowledged is lost")

        def last(message: Message) -> None:
            handled.append(message.text())
            bus.close()

        bus.subscribe(self.topic, last, group="g")
        bus.publish(self.topic, "last")
        wait_until(lambda: bus.get_connection_state().phase is Phase.CLOSED, 10.0)
        assert (bus.close().unhandled, handled) == (0, ["last"])
        second = self.open()
        second.subscribe(self.topic, inbox, group="g")
        second.publish(self.topic, "next")
        assert [message.text() for message in inbox.wait(1)] == ["next"]

    def test_a_closed_bus_says_so_and_stays_closed(self) -> None:
        bus = self.open()
        sub = bus.subscribe(self.topic, Inbox(), group="g")
        report = bus.close()
        assert bus.close() == report
        assert bus.get_connection_state().phase is Phase.CLOSED
        assert not bus.get_connection_state().is_connected
        assert not bus.wait_connected(5.0)
        bus.unsubscribe(sub)
        for call in (
            bus.open,
            bus.start_health_check,
            bus.reconnect,
            bus.flush,
            lambda: bus.publish(self.topic, "x"),
            lambda: bus.publish_async(self.topic, "x"),
            lambda: bus.publish_nowait(self.topic, b"x"),
            lambda: bus.publish_many([Message(self.topic, "x")]),
            lambda: bus.subscribe(self.topic, Inbox()),
        ):
            with pytest.raises(ClosedError):
                call()

    def test_a_bus_that_was_never_opened_says_so(self) -> None:
        bus = self.make()
        for call in (bus.start_health_check, bus.reconnect):
            with pytest.raises(NotConnectedError, match="open"):
                call()
        assert bus.get_connection_state().phase is Phase.NEW
        assert bus.close().unfinished_threads == ()

    def test_reconnect_on_demand_loses_nothing(self) -> None:
        bus, inbox = self.open(), Inbox()
        bus.subscribe(self.topic, inbox, group="g")
        for number in range(1, 4):
            bus.publish(self.topic, str(number), key="k")
            inbox.wait(number)
            bus.reconnect(timeout=10.0)
            assert bus.get_connection_state().reconnect_count == number
        bus.publish(self.topic, "4", key="k")
        assert [message.text() for message in inbox.wait(4)] == ["1", "2", "3", "4"]

    # -- bad input -------------------------------------------------------------------------------

    def test_bad_input_to_subscribe_is_refused_and_leaves_nothing(self) -> None:
        bus, inbox = self.open(), Inbox()
        good: dict[str, Any] = {"topic": self.topic, "handler": inbox, "group": "g"}
        ours = not bus.features.foreign_names
        bad: list[dict[str, Any]] = [{"topic": topic} for topic in BAD_PATTERNS + FOREIGN_TOPICS * ours]
        bad += [{"group": group} for group in BAD_GROUPS + FOREIGN_GROUPS * ours]
        bad += [{"handler": handler} for handler in (None, "handler", 7)]
        bad += [{"concurrency": number} for number in (0, -1, 1.5, "2", True, None)]
        bad += [{"start": start} for start in ("", "newest", None, 0)]
        for change in bad:
            with pytest.raises(SubscribeError) as caught:
                bus.subscribe(**{**good, **change})
            assert str(caught.value), change
        bus.subscribe(**good)
        bus.publish(self.topic, "x")
        assert [message.text() for message in inbox.wait(1)] == ["x"]

    def test_a_subscription_of_another_bus_is_none_of_ours(self) -> None:
        one, two, inbox = self.open(), self.open(), Inbox()
        sub = one.subscribe(self.topic, inbox, group="g")
        with pytest.raises(SubscribeError, match="another bus"):
            two.unsubscribe(sub)
        assert sub.state is not SubscriptionState.CLOSED
        one.publish(self.topic, "x")
        inbox.wait(1)
