"""Outage cases (a) (b) (c) (i) (j) (k) (l) (m) (p): the broker goes, the bus comes back, nothing is lost."""

from __future__ import annotations

import gc
import logging
import threading
import time
import tracemalloc

import pytest
from outages_base import OutageBase, Watch

from eventbus import EventBus, EventBusConfig, Phase, PublishNotSentError, PublishUnknownError, ReconnectExhaustedError
from eventbus.testing import wait_until
from eventbus.testing.traffic import Traffic


class RecoveryOutages(OutageBase):
    """The connection goes away and comes back."""

    # -- (a) killed before, during and after publishing ------------------------------------------

    @pytest.mark.outage("a")
    def test_killed_before_publishing(self) -> None:
        bus = self.open()
        watch = Watch(bus)
        sub = self.listen(bus)
        self.broker.kill()
        self.wait_lost(bus)
        waiting = bus.publish_async(self.topic, self.history.payload("k", 1), key="k")
        assert not waiting.done()
        self.broker.restore()
        self.history.confirm("k:1", waiting.result(5.0))
        self.wait_back(bus, 1)
        self.publish(bus, 2)
        self.settle(sub, handled=2)
        self.assert_history()
        wait_until(lambda: watch.reconnects)  # told last, on a thread of its own
        assert watch.phases == [Phase.RECONNECTING, Phase.CONNECTED]
        assert [(event.how, event.reconnect_count) for event in watch.reconnects] == [(self.how(bus), 1)]
        assert watch.reconnects[0].downtime > 0.0
        assert watch.reconnects[0].attempts >= 1

    @pytest.mark.outage("a")
    def test_killed_three_times_during_publishing(self) -> None:
        bus = self.open()
        sub = self.listen(bus, concurrency=3)
        with Traffic(bus, self.history, self.topic) as traffic:
            for round in range(1, 4):
                traffic.more()
                self.broker.kill()
                self.wait_lost(bus)
                self.broker.restore()
                self.wait_back(bus, round)
            traffic.more()
        self.settle(sub)
        self.assert_history()

    @pytest.mark.outage("a")
    def test_killed_after_publishing(self) -> None:
        bus = self.open()
        sub = self.listen(bus)
        self.publish(bus, 1, 2, 3)
        self.settle(sub, handled=3)
        self.broker.kill()
        self.wait_lost(bus)
        self.broker.restore()
        self.wait_back(bus, 1)
        self.publish(bus, 4)
        self.settle(sub, handled=4)
        self.assert_history()
        assert self.history.duplicates() == {}

    @pytest.mark.outage("a")
    def test_killed_and_restored_on_default_settings(self) -> None:
        bus = EventBus(EventBusConfig(backend=self.broker.backend_config(), name=f"{self.backend}-defaults"))
        self.buses.append(bus)
        bus.open()
        sub = self.listen(bus)
        for round in (1, 2):
            self.publish(bus, round)
            self.settle(sub, handled=round)
            self.broker.kill()
            self.wait_lost(bus)
            self.broker.restore()
            since = time.monotonic()
            self.wait_back(bus, round)
            assert time.monotonic() - since < 1.5, "it waited out a backoff"
        self.publish(bus, 3)
        self.settle(sub, handled=3)
        self.assert_history()

    @pytest.mark.outage("a")
    def test_frozen_for_longer_than_the_threshold(self) -> None:
        bus = self.open()
        sub = self.listen(bus)
        self.publish(bus, 1)
        self.broker.freeze()
        waiting = bus.publish_async(self.topic, self.history.payload("k", 2), key="k")
        self.wait_lost(bus)
        assert bus.get_reconnect_status().is_reconnecting
        self.broker.thaw()
        self.history.confirm("k:2", waiting.result(5.0))
        self.wait_back(bus, 1)
        self.publish(bus, 3)
        self.settle(sub, handled=3)
        self.assert_history()

    # -- (b) below the threshold -----------------------------------------------------------------

    @pytest.mark.outage("b")
    def test_failures_below_the_threshold_change_nothing(self) -> None:
        bus = self.open(health_check={"timeout": 0.4, "retry_interval": 0.1}, reconnect={"failure_threshold": 3})
        watch = Watch(bus)
        failed: list[int] = []

        def thaw_after_two(event: object) -> None:
            failed.append(bus.get_health_status().consecutive_failures)
            if len(failed) == 2:
                self.broker.thaw()

        bus.register_error_callback(thaw_after_two)
        self.broker.freeze()
        wait_until(lambda: len(failed) == 2)
        wait_until(lambda: bus.get_health_status().is_healthy)
        assert failed == [1, 2]
        assert bus.get_health_status().consecutive_failures == 0
        assert bus.get_reconnect_status().failure_count == 0
        assert bus.get_connection_state().reconnect_count == 0
        assert watch.phases == []
        assert watch.reconnects == []

    # -- (c) attempts exhausted ------------------------------------------------------------------

    @pytest.mark.outage("c")
    def test_exhausted_attempts_end_disconnected_and_it_recovers_later_all_the_same(self) -> None:
        bus = self.open(reconnect={"max_attempts": 2})
        watch = Watch(bus)
        sub = self.listen(bus)
        for round in (1, 2):
            self.broker.kill()
            wait_until(lambda: bus.get_connection_state().phase is Phase.DISCONNECTED, message=self.describe)
            state, status = bus.get_connection_state(), bus.get_reconnect_status()
            assert isinstance(state.last_error, ReconnectExhaustedError)
            assert state.last_error.__cause__ is not None
            assert (status.is_reconnecting, status.attempt) == (False, 0)
            assert bus.get_health_status().is_running
            wait_until(lambda round=round: len(watch.errors_of("connection")) == round)
            # Where clients heal themselves one may have been given it, if it knew its topic by then.
            either = (PublishUnknownError, PublishNotSentError) if bus.features.heals_itself else PublishNotSentError
            with pytest.raises(either) as caught:
                bus.publish(self.topic, self.history.payload("late", round), key="late", timeout=0.05)
            assert caught.value.id
            self.broker.restore()
            self.wait_back(bus, round)
        self.publish(bus, 1)
        self.settle(sub, handled=1)
        self.assert_history()

    # -- (i) half-open ---------------------------------------------------------------------------

    @pytest.mark.outage("i")
    def test_a_half_open_link_is_found_by_the_probe_in_time(self) -> None:
        bus = self.open()
        watch = Watch(bus)
        sub = self.listen_alone(bus)
        self.publish(bus, 1)
        self.settle(sub, handled=1)
        check = bus.config.health_check
        self.broker.half_open()
        since = time.monotonic()
        waiting = [bus.publish_async(self.topic, self.history.payload("k", number), key="k") for number in (2, 3)]
        wait_until(lambda: not bus.get_health_status().is_healthy)
        assert time.monotonic() - since < check.interval + check.timeout + 0.5 + self.slack
        for number, future in zip((2, 3), waiting, strict=True):
            self.history.confirm(f"k:{number}", future.result(10.0))
        self.wait_back(bus, 1)
        # To the broker the dead link is a member of the group, until it has found that out itself.
        self.settle(sub, handled=3 if bus.features.replays else None, timeout=30.0)
        self.assert_history(ordered=bus.features.ordered_by_key)
        wait_until(lambda: watch.reconnects)
        wait_until(lambda: watch.reconnects)
        assert [event.how for event in watch.reconnects] == ["rebuilt"]

    # -- (j) slow --------------------------------------------------------------------------------

    @pytest.mark.outage("j")
    def test_a_slow_server_is_no_reason_to_rebuild(self) -> None:
        bus = self.open(health_check={"timeout": 1.0, "interval": 0.02})
        self.broker.slow(0.1)
        since = time.monotonic()
        for _ in range(5):
            before = bus.get_health_status().last_success_time
            wait_until(lambda before=before: bus.get_health_status().last_success_time != before)
        assert time.monotonic() - since >= 4 * 0.1, "probes overlapped, or were not slowed down"
        assert bus.get_health_status().is_healthy
        assert bus.get_connection_state().reconnect_count == 0
        assert _threads_named(f"eventbus.{bus.config.name}.health") == 1
        self.broker.slow(0.0)

    @pytest.mark.outage("j")
    def test_a_server_slower_than_the_probe_and_well_again_is_back(self) -> None:
        bus = self.open(reconnect={"max_attempts": None}, connect_timeout=0.3)
        self.broker.slow(5.0)
        self.wait_lost(bus)
        wait_until(lambda: bus.get_reconnect_status().attempt >= 2, message=self.describe)
        self.broker.slow(0.0)
        self.wait_back(bus, 1)

    # -- (k) nothing grows -----------------------------------------------------------------------

    @pytest.mark.outage("k")
    @pytest.mark.watchdog(120)
    def test_hundreds_of_reconnects_leave_everything_flat(self) -> None:
        logger = logging.getLogger("eventbus")
        logger.setLevel(logging.CRITICAL)  # pytest keeps every record
        self.releases.append(lambda: logger.setLevel(logging.NOTSET))
        warm_up, times = self.reconnects // 5, self.reconnects - self.reconnects // 5 - 5
        bus = self.open()
        sub = self.listen(bus, concurrency=2)
        bus.register_reconnect_callback(lambda event: None)
        self._cut_times(bus, warm_up)
        before = self._footprint(bus)
        tracemalloc.start()
        try:
            self._cut_times(bus, 5)  # the present link's buffers are older than the tracing
            grown = self._growth(bus, times)
            after = self._footprint(bus)
            if grown >= times * self.growth:  # what is made once, whenever that is, does not come again
                grown = self._growth(bus, times)
        finally:
            tracemalloc.stop()
        assert after == before
        assert grown < times * self.growth, f"{grown} bytes in {times} reconnects"
        self.publish(bus, 1)
        self.settle(sub, handled=1)
        self.assert_history()

    def _growth(self, bus, times: int) -> int:
        size = self._held(bus)
        self._cut_times(bus, times)
        return self._held(bus) - size

    def _held(self, bus) -> int:
        """Bytes in use, without the sessions that are still being closed."""
        wait_until(lambda: not _threads_named(f"eventbus.{bus.config.name}.closing"))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    def _cut_times(self, bus, times: int) -> None:
        for _ in range(times):
            count = bus.get_connection_state().reconnect_count
            self.broker.cut()
            self.wait_back(bus, count + 1)

    def _footprint(self, bus) -> tuple[int, int, int]:
        prefix = f"eventbus.{bus.config.name}."

        def threads() -> set[threading.Thread]:
            return {thread for thread in threading.enumerate() if thread.name.startswith(prefix)}

        wait_until(lambda: self.broker.links() == 1)
        wait_until(lambda: not _threads_named(f"{prefix}closing"))
        found, probed = threads(), bus.get_health_status().last_success_time
        wait_until(lambda: bus.get_health_status().last_success_time != probed)
        lasting = found & threads()  # a probe may have a thread of its own, for a moment
        return len(lasting), self.broker.handles(), self.broker.links()

    # -- (l) settings ----------------------------------------------------------------------------

    @pytest.mark.outage("l")
    def test_settings_are_the_same_after_a_rebuild(self) -> None:
        bus = self.open(group="standard", reconnect={"rebuild": "always"})
        subs = [
            self.listen(bus, start="latest", concurrency=2),
            self.listen(bus, f"{self.topic}.>", group="other"),
            bus.subscribe(f"{self.topic}.a", self.history.handler),
        ]
        self.wait_active(*subs)
        config, known = bus.config, self.broker.known_of(bus)
        assert known
        for round in (1, 2):
            self.broker.kill()
            self.wait_lost(bus)
            self.broker.restore()
            self.wait_back(bus, round)
            self.wait_active(*subs)
            assert self.broker.known_of(bus) == known
        assert bus.config is config

    # -- (m) a restarted process -----------------------------------------------------------------

    @pytest.mark.outage("m")
    def test_a_restarted_process_goes_on_from_its_acknowledged_position(self) -> None:
        first = self.open()
        sub = self.listen(first)
        self.publish(first, 1, 2, 3)
        self.settle(sub, handled=3)
        assert first.close(5.0).unhandled == 0
        second = self.open()
        self.publish(second, 4, 5)
        self.settle(self.listen(second), handled=5)
        self.assert_history()
        assert self.history.duplicates() == {}

    @pytest.mark.outage("m")
    def test_what_a_process_had_not_finished_comes_again_to_the_next(self) -> None:
        first, release, entered = self.open(), threading.Event(), threading.Event()
        self.releases.append(release.set)

        def stuck(message) -> None:
            entered.set()
            release.wait(20.0)

        first.subscribe(self.topic, stuck, group=GROUP_M)
        self.publish(first, 1, 2, 3)
        assert entered.wait(5.0)
        wait_until(lambda: first.get_statistics().delivered == 3)
        report = first.close(0.5)
        assert report.unhandled == 3
        assert len(report.unfinished_threads) == 1
        second = self.open()
        sub = self.listen(second, group=GROUP_M)
        self.settle(sub, handled=3)
        self.assert_history()

    # -- (p) the new link dies on the way --------------------------------------------------------

    @pytest.mark.outage("p")
    @pytest.mark.parametrize("step", ["prepare", "attach", "publish"])
    def test_a_new_link_that_dies_on_the_way_loses_and_doubles_nothing(self, step: str) -> None:
        bus = self.open_replacing()
        subs = [self.listen(bus), self.listen(bus, f"{self.topic}.>", group="rest")]
        self.publish(bus, 1)
        self.settle(*subs, handled=1)
        self.broker.kill()
        self.wait_lost(bus)
        waiting = [bus.publish_async(self.topic, self.history.payload("k", n), key="k") for n in range(2, 1200)]
        assert bus.get_statistics().in_flight == len(waiting)
        self.broker.restore_broken(step)
        for number, future in enumerate(waiting, 2):
            self.history.confirm(f"k:{number}", future.result(10.0))
        wait_until(lambda: bus.get_health_status().is_healthy)
        self.settle(*subs, handled=1199)
        self.assert_history()
        if bus.features.deduplicates or not bus.features.heals_itself:
            assert self.history.duplicates() == {}
        assert bus.get_connection_state().is_connected
        assert bus.get_statistics().in_flight == 0

    @pytest.mark.outage("p")
    def test_unanswered_publishes_go_out_again_in_order_and_are_stored_once(self) -> None:
        bus = self.open(health_check={"timeout": 0.1}, reconnect={"failure_threshold": 1})
        sub = self.listen_alone(bus)
        self.broker.half_open()
        waiting = [bus.publish_async(self.topic, self.history.payload("k", n), key="k") for n in range(1, 51)]
        for number, future in enumerate(waiting, 1):
            self.history.confirm(f"k:{number}", future.result(10.0))
        self.settle(sub, handled=50 if bus.features.replays else None, timeout=30.0)
        self.assert_history(ordered=bus.features.ordered_by_key)
        if bus.features.deduplicates:
            assert self.history.duplicates() == {}

    @pytest.mark.outage("p")
    def test_a_publish_that_timed_out_unanswered_is_unknown_and_safe_to_repeat(self) -> None:
        bus = self.open()
        sub = self.listen(bus)
        self.broker.freeze()
        with pytest.raises(PublishUnknownError) as caught:
            bus.publish(self.topic, self.history.payload("k", 1), key="k", timeout=0.1)
        assert bus.get_statistics().in_flight == 1, "it lives until it is answered"
        self.broker.thaw()
        receipt = bus.publish(self.topic, "k:1", key="k", id=caught.value.id, timeout=5.0)
        self.history.confirm("k:1", receipt)
        assert receipt.id == caught.value.id
        self.settle(sub, handled=1)
        self.assert_history()
        if bus.features.deduplicates:
            assert receipt.duplicate
            assert self.history.duplicates() == {}


GROUP_M = "restarted"


def _threads_named(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())
