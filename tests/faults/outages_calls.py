"""Outage cases (f) (g) (h) (n) (o): callbacks and calls in the middle of it, and the bounds of every call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from outages_base import OutageBase, Watch

from eventbus import (
    AuthenticationError,
    ClosedError,
    ConnectFailedError,
    EventBus,
    NotConnectedError,
    Phase,
    PublishNotSentError,
    PublishUnknownError,
    SubscriptionState,
)
from eventbus.testing import wait_until


class CallOutages(OutageBase):
    """Calls during an outage."""

    # -- (f) callbacks ---------------------------------------------------------------------------

    @pytest.mark.outage("f")
    def test_a_callback_that_raises_disturbs_nobody(self) -> None:
        bus = self.open()

        def broken(event: object) -> None:
            raise RuntimeError("broken callback")

        def leaves(event: object) -> None:
            raise SystemExit(3)

        for register in (
            bus.register_reconnect_callback,
            bus.register_state_callback,
            bus.register_error_callback,
        ):
            register(broken)
            register(leaves)
        watch = Watch(bus)
        for round in (1, 2):
            self._kill_and_restore(bus, round)
        wait_until(lambda: len(watch.reconnects) == 2, message=self.describe)
        wait_until(lambda: any("broken callback" in str(error) for error in watch.errors_of("callback")))

    @pytest.mark.outage("f")
    def test_a_callback_that_hangs_delays_neither_recovery_nor_close(self) -> None:
        bus, release, entered = self.open(), threading.Event(), threading.Event()
        self.releases.append(release.set)

        def hangs(event: object) -> None:
            entered.set()
            release.wait(30.0)

        bus.register_reconnect_callback(hangs)
        self._kill_and_restore(bus, 1)
        assert entered.wait(5.0)
        self._kill_and_restore(bus, 2)
        with self.within(2.0):
            report = bus.close()
        assert report.unfinished_threads == (f"eventbus.{bus.config.name}.callbacks",)

    @pytest.mark.outage("f")
    def test_a_callback_may_call_the_bus(self) -> None:
        bus = self.open()
        sub = self.listen(bus)
        done: list[object] = []

        def calls(event: object) -> None:
            bus.get_connection_state(), bus.get_health_status(), bus.get_statistics()
            self.publish(bus, 1)
            self.listen(bus, f"{self.topic}.more")
            bus.unsubscribe(sub, timeout=1.0)
            bus.stop_health_check(timeout=1.0)
            bus.start_health_check()
            done.append(event)

        bus.register_reconnect_callback(calls)
        self.broker.kill()
        self.wait_lost(bus)
        self.broker.restore()
        wait_until(lambda: done, message=self.describe)
        self.wait_back(bus, 1)
        bus.unregister_reconnect_callback(calls)
        self._kill_and_restore(bus, 2)

    @pytest.mark.outage("f")
    def test_a_callback_may_close_the_bus(self) -> None:
        bus = self.open()
        reports: list[object] = []
        bus.register_reconnect_callback(lambda event: reports.append(bus.close(timeout=5.0)))
        self.broker.kill()
        self.wait_lost(bus)
        self.broker.restore()
        with self.within(3.0):
            wait_until(lambda: reports)
        assert bus.get_connection_state().phase is Phase.CLOSED
        with pytest.raises(ClosedError):
            bus.publish(self.topic, "late")

    @pytest.mark.outage("f")
    def test_registered_twice_is_called_once_and_unregistered_never(self) -> None:
        bus = self.open()
        once: list[object] = []
        never: list[object] = []
        for _ in range(2):
            bus.register_reconnect_callback(once.append)
            bus.register_reconnect_callback(never.append)
        bus.unregister_reconnect_callback(never.append)
        bus.unregister_reconnect_callback(never.append)
        self._kill_and_restore(bus, 1)
        self._kill_and_restore(bus, 2)
        wait_until(lambda: len(once) == 2)
        assert never == []

    # -- (g) stop and close in the middle --------------------------------------------------------

    @pytest.mark.outage("g")
    @pytest.mark.parametrize("where", ["backoff", "rebuild", "frozen", "grace", "exhausted"])
    @pytest.mark.parametrize("call", ["stop_health_check", "close"])
    def test_stop_and_close_return_at_once_wherever_recovery_is(self, where: str, call: str) -> None:
        bus = self._bus_in_the_middle_of(where)
        with self.within(1.0):
            answer = getattr(bus, call)()
        if call == "close":
            assert answer.unfinished_threads == ()
            assert bus.get_connection_state().phase is Phase.CLOSED
            return
        assert answer is True
        assert not bus.get_health_status().is_running
        assert bus.get_connection_state().phase is Phase.DISCONNECTED
        assert not bus.get_reconnect_status().is_reconnecting
        self._get_well(where)
        bus.start_health_check()
        self.wait_back(bus, 1)
        wait_until(lambda: self.broker.links() == 1, message="a candidate was left behind")

    def _bus_in_the_middle_of(self, where: str) -> EventBus:
        patient = {"connect_timeout": 30.0, "reconnect": {"initial_backoff": 30.0, "max_backoff": 30.0}}
        if where == "exhausted":
            bus = self.open(reconnect={"max_attempts": 1})
            self.broker.kill()
            wait_until(lambda: bus.get_connection_state().phase is Phase.DISCONNECTED)
            return bus
        if where == "backoff":
            bus = self.open(**{**patient, "connect_timeout": 0.5})
            self.broker.kill()
            wait_until(lambda: bus.get_reconnect_status().attempt == 1)
            wait_until(lambda: isinstance(bus.get_connection_state().last_error, ConnectFailedError))
            return bus
        bus = self.open(**patient)
        if where == "rebuild":
            self.broker.freeze()
            self.broker.cut()
            wait_until(lambda: bus.get_reconnect_status().attempt == 1)
        elif where == "frozen":
            self.broker.freeze()
            wait_until(lambda: bus.get_reconnect_status().attempt == 1)
        else:
            self.publish(bus, 1)  # a link that was never used may be replaced unseen
            self.broker.half_open()
            wait_until(lambda: self.broker.links() == 2)  # the candidate is there, the old one has its grace
        return bus

    def _get_well(self, where: str) -> None:
        if where in ("backoff", "exhausted"):
            self.broker.restore()
        elif where in ("rebuild", "frozen"):
            self.broker.thaw()

    @pytest.mark.outage("g")
    def test_after_stop_nothing_reconnects_until_it_is_started_again(self) -> None:
        bus = self.open()
        watch = Watch(bus)
        assert bus.stop_health_check()
        self.broker.kill()
        wait_until(lambda: bus.get_connection_state().phase is Phase.DISCONNECTED, message=self.describe)
        self.broker.restore()
        assert not bus.wait_connected(0.3)
        assert watch.reconnects == []
        bus.start_health_check()
        self.wait_back(bus, 1)

    @pytest.mark.outage("g")
    def test_reconnect_works_while_the_health_check_is_stopped(self) -> None:
        bus = self.open(health_check={"enabled": False})
        sub = self.listen(bus)
        self.broker.kill()
        if not bus.features.heals_itself:
            wait_until(lambda: bus.get_connection_state().phase is Phase.DISCONNECTED)
        with self.within(1.0), pytest.raises(NotConnectedError):
            bus.reconnect(timeout=0.2)
        self.broker.restore()
        bus.reconnect(timeout=5.0)
        assert bus.get_connection_state().reconnect_count == 1
        self.wait_active(sub)
        self.publish(bus, 1)
        self.settle(sub, handled=1)
        self.wait_active(sub)
        bus.reconnect(timeout=5.0)
        assert bus.get_connection_state().reconnect_count == 2, "a healthy one is replaced too"
        assert not bus.get_health_status().is_running

    @pytest.mark.outage("g")
    def test_the_old_link_may_die_while_reconnect_is_called_without_a_health_check(self) -> None:
        bus = self.open(health_check={"enabled": False})
        self.broker.freeze()
        failed: list[BaseException] = []
        caller = threading.Thread(target=_noting(failed, lambda: bus.reconnect(timeout=10.0)))
        caller.start()
        wait_until(lambda: bus.get_reconnect_status().is_reconnecting)
        self.broker.cut()
        if not bus.features.heals_itself:
            wait_until(lambda: not bus.get_health_status().is_healthy)
        self.broker.thaw()
        caller.join(10.0)
        assert failed == []
        assert bus.get_connection_state().phase is Phase.CONNECTED

    @pytest.mark.outage("g")
    def test_stopping_the_health_check_during_a_repair_leaves_the_link_alone(self) -> None:
        bus = self.open(connect_timeout=5.0, health_check={"timeout": self.patience, "interval": 0.02})
        self.broker.refuse_topic(self.topic)
        self.broker.kill()
        self.wait_lost(bus)
        sub = self.listen(bus)
        self.broker.restore()
        self.wait_back(bus, 1)
        wait_until(lambda: sub.state is SubscriptionState.FAILED)
        self.broker.slow(0.2)  # half of the time a repair is being made now
        for _ in range(3):
            before = bus.get_health_status().last_success_time
            wait_until(lambda before=before: bus.get_health_status().last_success_time != before)
            bus.stop_health_check(timeout=2.0)
            bus.publish(f"{self.topic}.other", "x", timeout=5.0)
            assert bus.get_connection_state().is_connected
            bus.start_health_check()
        self.broker.slow(0.0)
        assert bus.get_connection_state().reconnect_count == 1

    # -- (h) repeated, doubled, concurrent -------------------------------------------------------

    @pytest.mark.outage("h")
    def test_start_stop_and_close_may_be_repeated(self) -> None:
        bus = self.open()
        for _ in range(3):
            bus.start_health_check()
            bus.start_health_check()
            assert bus.get_health_status().is_running
            assert bus.stop_health_check()
            assert bus.stop_health_check()
            assert not bus.get_health_status().is_running
        bus.start_health_check()
        self._kill_and_restore(bus, 1)
        first = bus.close()
        assert bus.close() is first
        assert bus.stop_health_check()
        for call in (bus.start_health_check, bus.reconnect, bus.open, lambda: bus.publish("a", "b")):
            with pytest.raises(ClosedError):
                call()

    @pytest.mark.outage("h")
    def test_start_stop_and_close_from_many_threads(self) -> None:
        for _ in range(5):
            bus = self.open()
            self.listen(bus)
            self.broker.cut()
            barrier = threading.Barrier(6)
            failed: list[BaseException] = []
            calls = [bus.start_health_check, bus.stop_health_check, bus.close, bus.close, bus.reconnect]
            threads = [threading.Thread(target=_noting(failed, call, barrier)) for call in calls]
            for thread in threads:
                thread.start()
            barrier.wait(5.0)
            with self.within(3.0):
                for thread in threads:
                    thread.join(5.0)
            assert not any(thread.is_alive() for thread in threads)
            assert all(isinstance(error, (ClosedError, NotConnectedError)) for error in failed), failed
            assert bus.get_connection_state().phase is Phase.CLOSED

    @pytest.mark.outage("h")
    def test_a_handler_that_closes_while_the_bus_is_being_closed_blocks_nobody(self) -> None:
        bus, entered, closing = self.open(), threading.Event(), threading.Event()
        returned: list[float] = []

        def closes(message: object) -> None:
            entered.set()
            closing.wait(5.0)
            started = time.monotonic()
            bus.close()
            returned.append(time.monotonic() - started)

        bus.subscribe(self.topic, closes, group="g")
        self.publish(bus, 1)
        assert entered.wait(5.0)
        closer = threading.Thread(target=bus.close)
        closer.start()
        wait_until(lambda: self._is_closing(bus))
        closing.set()
        with self.within(2.0):
            closer.join(8.0)
        assert not closer.is_alive()
        assert returned

    @pytest.mark.outage("h")
    def test_a_health_check_started_while_the_first_connect_is_still_trying_stays(self) -> None:
        self.broker.kill()
        bus = self.make(health_check={"enabled": False})
        bus.open(wait=False)
        bus.start_health_check()
        self.broker.restore()
        assert bus.wait_connected(5.0)
        self._kill_and_restore(bus, 1)

    # -- (n) the first connect -------------------------------------------------------------------

    @pytest.mark.outage("n")
    def test_a_first_connect_that_fails_raises_and_leaves_the_bus_as_new(self) -> None:
        self.broker.kill()
        bus = self.make()
        sub = self.listen(bus)
        new = bus.get_connection_state()
        for _ in range(2):
            with self.within(2.5), pytest.raises(ConnectFailedError) as caught:
                bus.open(timeout=0.5)
            assert str(caught.value)
        state = bus.get_connection_state()
        assert (state.phase, state.is_connected, state.reconnect_count) == (new.phase, False, 0)
        assert state.last_error is caught.value
        assert not bus.get_health_status().is_running
        wait_until(lambda: not self._threads_of(bus), 1.0)
        with pytest.raises(PublishNotSentError):
            bus.publish(self.topic, "x", timeout=0.5)
        self.broker.restore()
        bus.open(timeout=5.0)
        self.wait_active(sub)
        self.publish(bus, 1)
        self.settle(sub, handled=1)
        assert bus.get_connection_state().reconnect_count == 0

    @pytest.mark.outage("n")
    @pytest.mark.parametrize("step", ["prepare", "attach"])
    def test_a_first_link_that_dies_on_the_way_is_a_failed_connect(self, step: str) -> None:
        self.broker.kill()
        bus = self.make()
        sub = self.listen(bus)
        self.broker.restore_broken(step)
        with pytest.raises(ConnectFailedError):
            bus.open(timeout=2.0)
        assert bus.get_connection_state().phase is Phase.NEW
        bus.open(timeout=2.0)
        self.publish(bus, 1)
        self.settle(sub, handled=1)
        wait_until(lambda: self.broker.links() == 1)

    @pytest.mark.outage("n")
    def test_open_without_waiting_serves_when_the_server_comes(self) -> None:
        self.broker.kill()
        bus = self.make(reconnect={"max_attempts": 1})
        watch = Watch(bus)
        sub = self.listen(bus)
        with self.within(0.5):
            bus.open(wait=False)
        with self.within(0.6), pytest.raises(PublishNotSentError):
            bus.publish(self.topic, "too early", timeout=0.1)
        wait_until(lambda: bus.get_reconnect_status().attempt >= 3)  # without limit, whatever max_attempts says
        waiting = bus.publish_async(self.topic, self.history.payload("k", 1), key="k")
        self.broker.restore()
        self.history.confirm("k:1", waiting.result(5.0))
        assert bus.wait_connected(5.0)
        self.settle(sub, handled=1)
        self.assert_history()
        assert bus.get_connection_state().reconnect_count == 0
        assert watch.reconnects == [], "a first connect is no reconnect"
        self._kill_and_restore(bus, 1)

    @pytest.mark.outage("n")
    def test_a_frozen_server_at_first_connect_is_a_failure_in_time(self) -> None:
        self.broker.freeze()
        bus = self.make()
        with self.within(0.3 + 0.5), pytest.raises(ConnectFailedError):
            bus.open(timeout=0.3)
        assert bus.get_connection_state().phase is Phase.NEW

    @pytest.mark.outage("n")
    def test_closed_while_connecting_for_the_first_time(self) -> None:
        self.broker.freeze()
        bus = self.make()
        failed: list[BaseException] = []
        opener = threading.Thread(target=_noting(failed, lambda: bus.open(timeout=30.0)))
        opener.start()
        wait_until(lambda: bus.get_connection_state().phase is Phase.CONNECTING)
        with self.within(1.0):
            bus.close()
            opener.join(5.0)
        assert [type(error) for error in failed] == [ClosedError]

    # -- (o) passwords ---------------------------------------------------------------------------

    @pytest.mark.outage("o")
    def test_a_wrong_password_at_the_first_connect_is_a_typed_error(self) -> None:
        bus = EventBus(self.broker.wrong_password())
        self.buses.append(bus)
        with self.within(3.0), pytest.raises(AuthenticationError):
            bus.open(timeout=2.0)
        assert bus.get_connection_state().phase is Phase.NEW

    @pytest.mark.outage("o")
    def test_a_password_that_is_changed_on_the_server_is_reported_and_not_hammered(self) -> None:
        bus = self.open(reconnect={"max_backoff": 1.0})
        watch = Watch(bus)
        before = self.broker.logins()
        self.broker.change_password()
        wait_until(lambda: bus.get_connection_state().phase is Phase.DISCONNECTED, message=self.describe)
        assert isinstance(bus.get_connection_state().last_error, AuthenticationError)
        wait_until(lambda: any(isinstance(error, AuthenticationError) for error in watch.errors_of("connection")))
        started = time.monotonic()
        wait_until(lambda: self.broker.logins() - before >= 3)
        assert time.monotonic() - started > 1.5, "hammered"
        self.broker.change_password_back()
        self.wait_back(bus, 1)

    # -- helpers ---------------------------------------------------------------------------------

    def _kill_and_restore(self, bus: EventBus, reconnects: int) -> None:
        self.broker.kill()
        self.wait_lost(bus)
        self.broker.restore()
        self.wait_back(bus, reconnects)

    def _is_closing(self, bus: EventBus) -> bool:
        try:
            bus.flush(0.0)
        except ClosedError:
            return True
        return False

    def _threads_of(self, bus: EventBus) -> list[str]:
        prefix = f"eventbus.{bus.config.name}."
        return [thread.name for thread in threading.enumerate() if thread.name.startswith(prefix)]

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """The block takes at most so long."""
        started = time.monotonic()
        yield
        took = time.monotonic() - started
        assert took < seconds + self.slack, f"took {took:.2f} s"


class BoundedCallOutages(CallOutages):
    """Every call keeps its deadline on a frozen broker."""

    def _frozen(self) -> EventBus:
        bus = self.open(connect_timeout=30.0)
        self.listen(bus)
        self.broker.freeze()
        return bus

    def test_publish_on_a_frozen_broker(self) -> None:
        bus = self._frozen()
        with self.within(0.5 + 0.5), pytest.raises(PublishUnknownError):
            bus.publish(self.topic, "x", timeout=0.5)

    def test_close_on_a_frozen_broker(self) -> None:
        bus = self._frozen()
        waiting = bus.publish_async(self.topic, "x")
        with self.within(0.5 + 0.5):
            report = bus.close(timeout=0.5)
        assert report.unanswered == 1
        assert isinstance(waiting.exception(1.0), PublishUnknownError)

    def test_stop_health_check_on_a_frozen_broker(self) -> None:
        bus = self._frozen()
        with self.within(0.5 + 0.5):
            bus.stop_health_check(timeout=0.5)

    def test_subscribe_that_a_close_cuts_short_on_a_frozen_broker(self) -> None:
        bus = self._frozen()
        failed: list[BaseException] = []
        caller = threading.Thread(target=_noting(failed, lambda: bus.subscribe(f"{self.topic}.more", print)))
        caller.start()
        wait_until(lambda: len(bus.get_subscriptions()) == 2)
        with self.within(0.5 + 1.0):
            bus.close(timeout=0.5)
            caller.join(10.0)
        assert [type(error) for error in failed] == [ClosedError]

    def test_unsubscribe_on_a_frozen_broker(self) -> None:
        bus = self._frozen()
        (sub,) = list(bus._consumers.subscriptions)
        with self.within(0.5 + 0.5):
            bus.unsubscribe(sub, timeout=0.5)

    def test_flush_on_a_frozen_broker(self) -> None:
        bus = self._frozen()
        bus.publish_nowait(self.topic, b"x")
        with self.within(0.5 + 0.5):
            assert bus.flush(timeout=0.5).unanswered == 1

    def test_a_frozen_broker_is_unhealthy_and_at_the_threshold_in_time(self) -> None:
        bus = self.open(
            health_check={"interval": 0.3, "timeout": 0.3, "retry_interval": 0.1}, reconnect={"failure_threshold": 3}
        )
        self.broker.freeze()
        started = time.monotonic()
        wait_until(lambda: not bus.get_health_status().is_healthy)
        assert time.monotonic() - started < 0.3 + 0.3 + 0.5 + self.slack
        assert bus.get_connection_state().is_connected
        wait_until(lambda: bus.get_connection_state().phase is Phase.RECONNECTING)
        assert time.monotonic() - started < 0.3 + 3 * 0.3 + 2 * 0.1 + 0.5 + self.slack
        assert bus.get_health_status().consecutive_failures == 3
        assert bus.get_reconnect_status().failure_count == 3


def _noting(
    failed: list[BaseException], call: Callable[[], object], barrier: threading.Barrier | None = None
) -> Callable[[], None]:
    def run() -> None:
        if barrier is not None:
            barrier.wait(5.0)
        try:
            call()
        except BaseException as error:
            failed.append(error)

    return run
