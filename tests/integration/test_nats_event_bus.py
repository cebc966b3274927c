"""The whole bus on a real nats-server that is killed with -9, on default settings."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict

import pytest

import eventbus
from eventbus.backends.nats.core.session import NatsSession
from eventbus.testing import NatsCluster, NatsServer, wait_until

pytestmark = pytest.mark.nats

DOWNTIME = 0.3


def pause(seconds: float) -> None:
    """How long an outage lasts; nothing is synchronised by it."""
    threading.Event().wait(seconds)


@pytest.mark.outage("a")
@pytest.mark.parametrize("jetstream", [True, False], ids=["jetstream", "nats-core"])
def test_nats_event_bus_reconnect(nats_server: NatsServer, jetstream: bool) -> None:
    """The server dies and comes back; the health check does the rest, nobody calls reconnect()."""
    handled: list[int] = []
    events: list[eventbus.ReconnectEvent] = []
    with eventbus.EventBus({"url": nats_server.url, "jetstream": jetstream, "group": "shop"}) as bus:
        bus.register_reconnect_callback(events.append)
        subs = [
            bus.subscribe("orders.new", lambda message: handled.append(message.json())),
            bus.subscribe("orders.*", lambda message: None, group=eventbus.BROADCAST),
        ]
        before = [bus.publish("orders.new", number) for number in range(50)]
        nats_server.kill()
        wait_until(lambda: bus.get_connection_state().phase is eventbus.Phase.RECONNECTING)
        assert not bus.get_health_status().is_healthy
        assert bus.get_reconnect_status().failure_count >= bus.config.reconnect.failure_threshold
        during = [bus.publish_async("orders.new", number) for number in range(50, 100)]
        pause(DOWNTIME)
        nats_server.start()
        receipts = before + [future.result(10) for future in during]
        assert [receipt.confirmed for receipt in receipts] == [jetstream] * 100
        wait_until(lambda: set(handled) == set(range(100)))
        wait_until(lambda: events)
        assert [(event.how, event.reconnect_count) for event in events] == [("rebuilt", 1)]
        assert events[0].downtime >= DOWNTIME
        assert all(sub.state is eventbus.SubscriptionState.ACTIVE for sub in subs)
        assert bus.get_health_status().is_healthy
        assert bus.get_reconnect_status().failure_count == 0


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("jetstream", [True, False], ids=["jetstream", "nats-core"])
def test_a_group_loses_nothing_when_a_well_link_is_replaced(
    nats_server_shared: NatsServer, monkeypatch: pytest.MonkeyPatch, jetstream: bool, late: bool
) -> None:
    """Until the old link is closed the server gives it its share of the messages."""
    may_close, close = threading.Event(), NatsSession.close
    if not late:
        may_close.set()

    def closing(self: NatsSession, timeout: float) -> tuple[str, ...]:
        assert may_close.wait(20.0)
        return close(self, timeout)

    monkeypatch.setattr(NatsSession, "close", closing)
    url = {"url": nats_server_shared.url, "jetstream": jetstream, "ack_wait": 60.0}
    handled: list[int] = []
    topic = f"swapped-{jetstream}-{late}"
    published, over = 0, threading.Event()
    with eventbus.EventBus(url) as bus, eventbus.EventBus({**url, "name": "other"}) as other:

        def publish() -> None:
            nonlocal published
            while not over.is_set():
                other.publish(topic, published)
                published += 1

        bus.subscribe(topic, lambda message: handled.append(message.json()), group="g")
        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        for _ in range(10):
            bus.reconnect(10.0)
            seen = published
            wait_until(lambda seen=seen: published > seen + 20)  # type: ignore[misc]
        may_close.set()
        over.set()
        thread.join(10.0)
        wait_until(lambda: len(handled) >= published, message=lambda: f"{len(handled)} of {published}")
        assert sorted(handled) == list(range(published))


@pytest.mark.parametrize("jetstream", [True, False], ids=["jetstream", "nats-core"])
def test_a_group_loses_nothing_when_a_member_closes(nats_server_shared: NatsServer, jetstream: bool) -> None:
    """As in every rolling restart: what the server has sent to it by then is handled, or given back."""
    url = {"url": nats_server_shared.url, "jetstream": jetstream, "ack_wait": 60.0}
    topic = f"rolling-{jetstream}"
    handled: list[int] = []
    published, over = 0, threading.Event()

    def handle(message: eventbus.Message) -> None:
        handled.append(message.json())

    with eventbus.EventBus(url) as stays, eventbus.EventBus({**url, "name": "other"}) as other:

        def publish() -> None:
            nonlocal published
            while not over.is_set():
                for _ in range(100):
                    other.publish_nowait(topic, published)
                    published += 1
                other.flush(10.0)

        stays.subscribe(topic, handle, group="g")
        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        for _ in range(10):
            with eventbus.EventBus({**url, "name": "goes"}) as goes:
                goes.subscribe(topic, handle, group="g")
                wait_until(lambda goes=goes: goes.get_statistics().handled > 500)  # type: ignore[misc]
        over.set()
        thread.join(10.0)
        wait_until(lambda: len(handled) >= published, message=lambda: f"{len(handled)} of {published}")
        assert sorted(handled) == list(range(published))


def test_what_is_too_much_for_a_slow_handler_goes_to_the_others_of_its_group(nats_server_shared: NatsServer) -> None:
    """One handler hangs on its first message; the messages behind it are handled by the other member."""
    entered, gate = threading.Event(), threading.Event()
    handled: Counter[int] = Counter()
    config = {"url": nats_server_shared.url, "group": "slow"}

    def hang(message: eventbus.Message) -> None:
        entered.set()
        assert gate.wait(30.0)
        handled[message.json()] += 1

    with eventbus.EventBus(config) as slow, eventbus.EventBus(config) as quick:
        try:
            slow.subscribe("slowly.x", hang)
            slow.publish_many([eventbus.Message("slowly.x", number) for number in range(500)])
            assert entered.wait(10.0)
            quick.subscribe("slowly.x", lambda message: handled.update([message.json()]))
            wait_until(lambda: len(handled) >= 500 - 65 - 1, 15.0, message=lambda: f"{len(handled)} of 500")
            gate.set()
            wait_until(lambda: len(handled) == 500)
            assert set(handled.values()) == {1}
        finally:
            gate.set()


@pytest.mark.outage("a")
def test_three_kills_under_twenty_thousand_confirmed_publishes(nats_server: NatsServer) -> None:
    """0 lost, 0 stored twice, stored in order per thread."""
    threads_count, each = 4, 5000
    stored: dict[int, list[tuple[int, int]]] = defaultdict(list)
    handled: Counter[tuple[int, int]] = Counter()
    seen: set[int] = set()
    failures: list[BaseException] = []
    progress = Counter()  # type: ignore[var-annotated]

    def handle(message: eventbus.Message) -> None:
        thread, number = message.json()
        handled[thread, number] += 1

    with eventbus.EventBus(nats_server.url) as bus:
        bus.subscribe("load.*", handle, group="load")

        def publish(thread: int) -> None:
            try:
                for number in range(each):
                    receipt = bus.publish("load.x", [thread, number], key=str(thread))
                    assert receipt.confirmed
                    stored[thread].append((number, receipt.offset or 0))
                    progress[thread] = number
            except BaseException as error:
                failures.append(error)

        publishers = [threading.Thread(target=publish, args=(number,)) for number in range(threads_count)]
        for publisher in publishers:
            publisher.start()
        for round_ in range(1, 4):
            wait_until(lambda mark=round_ * 4500: sum(progress.values()) > mark or failures, 60)
            nats_server.kill()
            pause(DOWNTIME)
            nats_server.start()
            wait_until(lambda count=round_: bus.get_connection_state().reconnect_count >= count)
        for publisher in publishers:
            publisher.join(60)
        assert not failures
        for thread in range(threads_count):
            offsets = [offset for _, offset in stored[thread]]
            assert offsets == sorted(set(offsets)), "stored out of order, or twice"
            seen.update(offsets)
        assert len(seen) == threads_count * each
        # What was on the wire at a kill comes again after ack_wait.
        wait_until(lambda: len(handled) == threads_count * each, 30)
        streams = nats_server.monitor("jsz?streams=1")["account_details"][0]["stream_detail"]
        assert [stream["state"]["messages"] for stream in streams] == [threads_count * each], "lost or stored twice"
        print("handled more than once:", sum(handled.values()) - len(handled))


EXITING = """
import sys, eventbus
bus = eventbus.EventBus(sys.argv[1])
bus.open()
bus.subscribe("orders.*", lambda message: None, group="g")
bus.publish("orders.new", "x")
for number in range(100):
    bus.publish_nowait("orders.new", "x")
print("ready", flush=True)
sys.stdin.readline()
bus.stop_health_check()
print("stopped", flush=True)
"""


@pytest.mark.parametrize("state", ["up", "killed", "frozen"])
@pytest.mark.parametrize("jetstream", ["true", "false"])
def test_a_process_that_only_stops_the_health_check_exits(nats_server: NatsServer, state: str, jetstream: str) -> None:
    command = [sys.executable, "-c", EXITING, f"{nats_server.url}?jetstream={jetstream}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if state == "killed":
            nats_server.kill()
        elif state == "frozen":
            nats_server.freeze()
        started = time.monotonic()
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.wait(10) == 0
        assert time.monotonic() - started < 2.0
        assert process.stdout.readline() == "stopped\n"
    if state == "frozen":
        nats_server.thaw()


def test_a_node_of_a_cluster_dies_and_the_bus_moves_on(nats_cluster: NatsCluster) -> None:
    handled: set[int] = set()
    with eventbus.EventBus({"url": nats_cluster.servers[0].url, "group": "g"}) as bus:  # the others are announced
        bus.subscribe("orders.*", lambda message: handled.add(message.json()))
        receipts = [bus.publish("orders.new", number) for number in range(20)]
        nats_cluster.servers[0].kill()
        receipts += [bus.publish("orders.new", number) for number in range(20, 40)]
        assert all(receipt.confirmed for receipt in receipts)
        wait_until(lambda: handled == set(range(40)), 30)
        assert bus.get_connection_state().reconnect_count >= 1
        assert len({receipt.offset for receipt in receipts}) == 40


def test_a_restarted_process_goes_on_where_it_was(nats_server: NatsServer) -> None:
    """Handlers of the second bus see only what the first had not acknowledged."""
    first_seen: list[int] = []
    second_seen: list[int] = []
    url = f"{nats_server.url}?group=g"
    with eventbus.EventBus(url) as bus:
        bus.subscribe("orders.*", lambda message: first_seen.append(message.json()))
        for number in range(10):
            bus.publish("orders.new", number)
        wait_until(lambda: len(first_seen) == 10)
    with eventbus.EventBus(url) as bus:
        for number in range(10, 20):
            bus.publish("orders.new", number)
    with eventbus.EventBus(url) as bus:
        bus.subscribe("orders.*", lambda message: second_seen.append(message.json()))
        wait_until(lambda: len(second_seen) == 10)
    assert (first_seen, second_seen) == (list(range(10)), list(range(10, 20)))
