"""Interrupted, by a fork: a child never uses what its parent opened, and the parent notices nothing."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial

import pytest
from instants import Instants, instructions_of
from rounds import LONG, limit, rounds
from world_support import (
    MakeBus,
    Outages,
    Seen,
    assert_closes,
    assert_well,
    fresh,
    in_child,
    script,
    wrong_in_child,
    wrong_once_reopened,
)

import eventbus
from eventbus import EventBus, Message
from eventbus.testing import NatsServer, wait_until

pytestmark = [
    pytest.mark.watchdog(limit(40.0)),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


class Traffic:
    """Two threads that publish on a bus with a subscription; knows what was confirmed."""

    def __init__(self, bus: EventBus, topic: str) -> None:
        self._bus, self._topic = bus, topic
        self._stop = threading.Event()
        self.seen = Seen()
        self.receipts: list[eventbus.Receipt] = []
        self._threads = [threading.Thread(target=self._publish, args=(number,), daemon=True) for number in range(2)]

    def _publish(self, number: int) -> None:
        for turn in range(1_000_000):
            if self._stop.wait(0.0005):
                return
            text = f"{number}/{turn}"
            self._bus.publish_nowait(self._topic, text + "/nowait")
            self.receipts.append(self._bus.publish(self._topic, text))

    def __enter__(self) -> Traffic:
        self._bus.subscribe(self._topic, self.seen, group="group", concurrency=2)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10.0)

    def check(self) -> None:
        """Nothing lost, no id twice, nothing reconnected."""
        assert not any(thread.is_alive() for thread in self._threads), "a publisher of the parent hangs"
        assert self._bus.flush(2.0).unanswered == 0
        published = 2 * len(self.receipts)
        wait_until(
            lambda: len({message.payload for message in self.seen.messages}) == published,
            message=lambda: f"{published} published, {len(set(self.seen.payloads))} handled",
        )
        ids = Counter(message.id for message in self.seen.messages)
        assert max(ids.values()) == 1, "an id was given twice"
        state = self._bus.get_connection_state()
        assert (state.is_connected, state.reconnect_count) == (True, 0)
        assert self._bus.get_health_status().is_healthy


def test_forked_at_random_moments_of_a_busy_bus(make_bus: MakeBus, chance: random.Random) -> None:
    """Whatever lock another thread holds at that moment is held for ever in the child."""
    bus, topic = make_bus(on_fork="raise"), fresh("forked")
    bus.open()
    with Traffic(bus, topic) as traffic:
        for number in range(rounds(6, 170)):
            threading.Event().wait(chance.uniform(0.0, 0.01))
            wrong = in_child(lambda: wrong_in_child(bus))
            assert wrong == [], f"fork {number}"
    traffic.check()
    assert_closes(bus, "the parent")


LOOKS: dict[str, Callable[[EventBus], list[str]]] = {"raise": wrong_in_child, "reopen": wrong_once_reopened}


@pytest.mark.parametrize("on_fork", LOOKS)
def test_forked_at_random_instructions_of_a_call(memory_bus: MakeBus, chance: random.Random, on_fork: str) -> None:
    """As a signal handler that forks does: the child's main thread stands in the middle of a call of the bus."""
    bus, topic = memory_bus(on_fork=on_fork), fresh("forked")
    bus.open()
    kept = bus.subscribe(topic, lambda message: None, group="kept")
    calls: dict[str, Callable[[], object]] = {
        "publish": lambda: bus.publish(topic, b"x", timeout=5.0),
        "publish_async": lambda: bus.publish_async(topic, b"x"),
        "publish_nowait": lambda: bus.publish_nowait(topic, b"x"),
        "flush": lambda: bus.flush(2.0),
        "subscribe": lambda: bus.subscribe(fresh("other"), lambda message: None, group="group"),
        "statistics": bus.get_statistics,
        "status": lambda: (bus.get_connection_state(), bus.get_health_status(), kept.status()),
    }
    for call in calls.values():
        call()
    lengths = {name: instructions_of(call) for name, call in calls.items()}
    for number in range(rounds(10, 170)):
        name = chance.choice(list(calls))
        found: list[list[str]] = []

        def fork(found: list[list[str]] = found) -> None:
            found.append(in_child(lambda: LOOKS[on_fork](bus)))

        instants = Instants(chance.randint(1, lengths[name]), fork)
        instants.run(calls[name])
        assert not any(found), f"fork {number}, {name} at {instants.fired_in}: {found}"
        assert_well(bus, topic, f"the parent after a fork in {name} at {instants.fired_in}")
    assert_closes(bus, "the parent")


AT_ONCE = 2.0
"""Seconds, on a busy machine: whoever is not told waits for the 5 s that the calls have."""
ASKED: dict[str, Callable[[EventBus], object]] = {
    "publish": lambda bus: bus.publish("topic", b"x", timeout=5.0),
    "publish_async": lambda bus: bus.publish_async("topic", b"x", timeout=5.0).result(5.0),
    "publish_many": lambda bus: bus.publish_many([Message("topic", b"x")], timeout=5.0),
    "flush": lambda bus: bus.flush(5.0),
    "open": lambda bus: bus.open(5.0),
    "open(wait=False)": lambda bus: bus.open(wait=False),
    "subscribe": lambda bus: bus.subscribe(fresh("other"), lambda message: None, group="group"),
    "list_dead_letters": lambda bus: bus.list_dead_letters(),
    "start_health_check": lambda bus: bus.start_health_check(),
    "stop_health_check": lambda bus: bus.stop_health_check(5.0),
    "reconnect": lambda bus: bus.reconnect(5.0),
    "close": lambda bus: bus.close(5.0),
}


def _goes_on(call: Callable[[], object], at: int) -> str:
    """Call, with a fork on top at that instruction: what is wrong for the child that goes on with the call, or ""."""
    reader, writer = os.pipe()
    children: list[int] = []
    wrong, started = "", time.monotonic()

    def fork() -> None:
        child = os.fork()
        if child:
            children.append(child)
        else:
            sys.settrace(None)

    instants = Instants(at, fork)
    try:
        instants.run(call)
    except BaseException as error:
        wrong = (
            "" if instants.fired_in and isinstance(error, eventbus.ForkedError) else f"{type(error).__name__}: {error}"
        )
    took = time.monotonic() - started
    if instants.fired_in and not children:
        text = wrong or (f"told after {took:.2f} s" if took > AT_ONCE else "")
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    assert not wrong, f"the parent: {wrong}"
    with open(reader, "rb") as pipe:
        text = pipe.read().decode()
    for child in children:
        os.waitpid(child, 0)
    return text and f"at {instants.fired_in}: {text}"


@pytest.mark.parametrize("name", ASKED)
def test_a_child_that_goes_on_with_a_call_of_its_parent_is_told_at_once(
    memory_bus: MakeBus, chance: random.Random, name: str
) -> None:
    """As after a signal handler that forks. What the call has asked for is done in the parent, and by nobody here."""

    def on_a_bus() -> Callable[[], object]:
        bus = memory_bus()
        if not name.startswith("open"):
            bus.open()
        return partial(ASKED[name], bus)

    length = instructions_of(on_a_bus())
    for _ in range(rounds(6, 60)):
        assert _goes_on(on_a_bus(), chance.randint(1, length)) == ""


def test_a_child_that_goes_on_with_publish_nowait_is_told_where_nobody_publishes_for_it(memory_bus: MakeBus) -> None:
    """But for the last instructions, where the parent has the message, and the call is about to return."""
    bus, topic, parent = memory_bus(), fresh("nowait"), os.getpid()
    bus.open()
    bus.publish(topic, b"so that the topic is known")

    def publish() -> None:
        bus.publish_nowait(topic, b"x")
        if os.getpid() != parent:
            assert bus.flush(5.0).unanswered == 0
            assert [one.payload for one in bus.read(topic)] == [b"x"], "lost"

    length = instructions_of(lambda: bus.publish_nowait(topic, b"x"))
    lost = [_goes_on(publish, at) for at in range(1, length, 1 if LONG else 4)]
    assert sum(map(bool, lost)) < len(lost) / 8, lost


def _in_handler(bus: EventBus, fork: Callable[[], None]) -> None:
    bus.subscribe("forking", lambda message: fork(), group="group")
    bus.publish("forking", b"x")


def _in_reconnect_callback(bus: EventBus, fork: Callable[[], None]) -> None:
    bus.register_reconnect_callback(lambda event: fork())
    bus.reconnect(5.0)


def _in_done_callback(bus: EventBus, fork: Callable[[], None]) -> None:
    def done(future: Future[eventbus.Receipt]) -> None:
        fork()

    bus.publish_async("forking", b"x").add_done_callback(done)


@pytest.mark.parametrize("on_fork", LOOKS)
@pytest.mark.parametrize("place", [_in_handler, _in_reconnect_callback, _in_done_callback], ids=lambda p: p.__name__)
def test_a_bus_forked_on_one_of_its_own_threads_raises_or_reopens_there_too(
    make_bus: MakeBus, place: Callable[[EventBus, Callable[[], None]], None], on_fork: str
) -> None:
    """A handler that uses multiprocessing: the child's copy must not take itself for the parent's handler."""
    bus = make_bus(on_fork=on_fork)
    bus.open()
    found: list[object] = []

    def fork() -> None:
        for _ in range(rounds(2, 20)):
            try:
                found.append(in_child(lambda: LOOKS[on_fork](bus)))
            except BaseException as error:
                found.append(error)

    place(bus, fork)
    wait_until(lambda: len(found) == rounds(2, 20), 20.0)
    assert not any(found), found
    assert_well(bus, "not-forking", "the parent")
    assert_closes(bus, "the parent")


def test_a_child_s_memory_broker_has_nothing_of_the_parent_s(memory_bus: MakeBus, outages: Outages) -> None:
    bus, seen = memory_bus(), Seen()
    bus.subscribe("topic", seen, group="group")
    bus.open()
    bus.publish_many([eventbus.Message("topic", f"parent's {number}") for number in range(10)])
    seen.wait(10)

    def child() -> list[bytes]:
        handled = Seen()
        with EventBus(f"memory://{outages.name}") as own:
            own.subscribe("topic", handled, group="another")
            own.publish("topic", b"the child's")
            handled.wait(1, 3.0)
            threading.Event().wait(0.1)
            return handled.payloads

    assert in_child(child) == [b"the child's"]
    bus.publish("topic", b"on it goes")
    wait_until(lambda: b"on it goes" in seen.payloads)
    assert b"the child's" not in seen.payloads


def test_a_child_makes_a_bus_of_its_own_with_ids_of_its_own(make_bus: MakeBus) -> None:
    bus, topic, seen = make_bus(), fresh("own"), Seen()
    bus.open()

    def child() -> tuple[list[str], int]:
        handled = Seen()
        with EventBus(bus.config) as own:
            own.subscribe(topic, handled, group="child")
            ids = [own.publish(topic, f"child's {number}").id for number in range(20)]
            wait_until(lambda: sum(b"child" in payload for payload in handled.payloads) == 20, 5.0)
        return ids, bus.close(1.0).unanswered

    with Traffic(bus, fresh("traffic")) as traffic:
        childs, unanswered = in_child(child)
        parents = [bus.publish(topic, b"parent's").id for _ in range(20)]
    traffic.check()
    assert unanswered == 0
    assert len(set(childs + parents)) == 40
    bus.subscribe(topic, seen, group="reader")
    seen.wait(20)


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A program with pipes, dead at the end."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.nats
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("url", ["{url}", "{url}?jetstream=false"], ids=["jetstream", "core"])
def test_an_inherited_socket_keeps_no_connection_alive(nats_server: NatsServer, url: str, end: signal.Signals) -> None:
    """The parent dies, its child lives on: the server must see the parent's end at once."""
    code = """
    bus = eventbus.EventBus(sys.argv[1])
    bus.open()
    bus.subscribe("topic", lambda message: None, group="group")
    if not os.fork():
        print("child", os.getpid(), flush=True)
        sys.stdin.read()
        os._exit(0)
    threading.Event().wait()
    """
    with running(*script(code, url.format(url=nats_server.url))) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline().split()[1])
        wait_until(lambda: nats_server.monitor("connz")["num_connections"] == 1)
        try:
            os.kill(parent.pid, end)
            parent.wait(5.0)
            wait_until(
                lambda: nats_server.monitor("connz")["num_connections"] == 0,
                3.0,
                message="the child keeps the connection of its dead parent",
            )
            os.kill(child, 0)  # it lives
        finally:
            os.kill(child, signal.SIGKILL)


def _sockets() -> set[str]:
    """Those of this process, by their inodes."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # of the listing itself
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return {link for link in links if link.startswith("socket:")}


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="not applicable: descriptors are looked up in /proc")
@pytest.mark.parametrize("info", [b"", b'INFO {"headers": true, "tls_required": true}\r\n'], ids=["plain", "tls"])
def test_a_link_that_is_being_made_is_not_the_child_s_either(info: bytes) -> None:
    """The parent goes on with it: the child must not keep it up behind the parent's back."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = _sockets()
        bus = EventBus(f"nats://127.0.0.1:{server.getsockname()[1]}?connect_timeout=20")
        bus.open(wait=False)
        try:
            link, _ = server.accept()
            with link:
                link.sendall(info)
                assert not info or link.recv(1), "no TLS handshake"
                ours = before | {f"socket:[{os.fstat(link.fileno()).st_ino}]"}
                wait_until(lambda: _sockets() - ours)
                assert in_child(_sockets) <= ours
        finally:
            bus.close(1.0)


@pytest.mark.nats
def test_a_child_says_no_goodbye_for_its_parent(nats_server: NatsServer) -> None:
    """What a child closes or ends with must not reach the parent's server."""
    bus, seen = EventBus(nats_server.url), Seen()
    bus.open()
    try:
        bus.subscribe("topic", seen, group="group")
        before = nats_server.monitor("connz")["connections"][0]["cid"]
        for _ in range(rounds(3, 30)):
            in_child(lambda: bus.close(1.0).unanswered)
            bus.publish("topic", b"x")
        seen.wait(rounds(3, 30))
        assert [one["cid"] for one in nats_server.monitor("connz")["connections"]] == [before]
        assert bus.get_connection_state().reconnect_count == 0
    finally:
        bus.close(2.0)
