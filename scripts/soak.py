"""Long outage rounds on real servers: `make soak`. Exit code 1 if a promise was broken.

recovery   kill -9 and restart, again and again: how long until the first message is handled again
confirmed  kill -9 under confirmed JetStream publishes from four threads: nothing lost, nothing twice
leaks      hundreds of reconnects leave threads, file descriptors and memory as they were
conformance  every behaviour on every backend, near and far
world      `tests/world`: interrupts, forks and swaps at random, by the hundred
gunicorn   real gunicorns under 200 requests a second and more, while brokers and workers die and it reloads
gevent     the suites of NATS with greenlets in the place of threads

The first three are about NATS; the parts whose names begin with `kafka-` are explained in `scripts/soak_kafka.py`.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import frozen

if not __package__:  # run as a file, not as a module
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from eventbus import EventBus, Message, PublishError
from eventbus.testing import NatsServer, wait_until
from eventbus.testing.servers.process import ServerUnavailable
from scripts.bench.raw import RawNats, make_stream, read_stream
from scripts.bench.stage import Worker
from scripts.soak_kafka import KAFKA_PARTS
from scripts.soaking.holdings import Holdings, settled
from scripts.soaking.recovery import OUTAGES
from scripts.soaking.suites import conformance, gevent, gunicorn, world

SHORTEST, LONGEST = 0.2, 5.0
"""Seconds of downtime."""
GIVE_UP = 20.0
"""Seconds after which a recovery counts as failed."""
SHARE = 0.95
"""Of the rounds that must be within their bound."""
THREADS = 4
KILLS = 3
WARM = 0.25
"""The part of the reconnects after which nothing may grow any more."""
MOST_GROWTH = 4 * 1024 * 1024
MOST_OBJECTS = 300
"""A replaced session (some 200 objects) may still be held by the last error's traceback, but not two."""


@frozen
class Round:
    """One outage."""

    downtime: float
    recovery: float

    @property
    def bound(self) -> float:
        """How long the recovery may take."""
        return max(0.1, min(0.5, self.downtime / 3))

    @property
    def kept(self) -> bool:
        """Whether it was quick enough."""
        return self.recovery <= self.bound


class Watch:
    """A handler that waits for the first message of a link that the load made after a moment."""

    def __init__(self) -> None:
        self._after = math.inf
        self._seen = threading.Event()
        self.handled = self.answered = math.inf

    def __call__(self, message: Message) -> None:
        answered = float(message.payload.split()[0])
        if answered > self._after and not self._seen.is_set():
            self.handled, self.answered = time.monotonic(), answered
            self._seen.set()

    def arm(self, after: float) -> None:
        """From now on wait for messages of links made after this moment."""
        self._after = math.inf
        self._seen.clear()
        self.handled = self.answered = math.inf
        self._after = after

    def wait(self, timeout: float) -> bool:
        """Whether it came."""
        return self._seen.wait(timeout)


def recovery(options: argparse.Namespace) -> bool:
    """Both kinds of NATS, each on a server of its own and a bus on default settings."""
    print(
        f"recovery: {options.rounds} x kill -9, down {SHORTEST} to {LONGEST} s, from INFO to the first message handled"
    )
    return all([_recover(kind, options) for kind in ("core", "jetstream")])


def _recover(kind: str, options: argparse.Namespace) -> bool:
    chance = random.Random(f"{options.seed}/{kind}")
    watch = Watch()
    with NatsServer() as server:
        host, port = server.address
        if kind == "jetstream":
            with RawNats(server.address) as raw:
                make_stream(raw, "soak")
        url = f"{server.url}?jetstream={'true' if kind == 'jetstream' else 'false'}"
        load = {"host": host, "port": port, "topic": "soak.recovery"}
        with EventBus(url) as bus, Worker("load", "pump", load):
            bus.subscribe("soak.recovery", watch, group="soak")
            watch.arm(0.0)
            if not watch.wait(GIVE_UP):
                raise RuntimeError("the load does not arrive")
            rounds = []
            for number, downtime in enumerate(_downtimes(options.rounds, chance), 1):
                time.sleep(chance.uniform(0.2, 0.7))  # anywhere between two probes
                rounds.append(_outage(server, watch, downtime))
                _print_round(kind, number, rounds[-1])
    return _judge(kind, rounds)


def _downtimes(count: int, chance: random.Random) -> list[float]:
    """Evenly spread over the orders of magnitude, as short ones have the tighter bound; shuffled."""
    spread = math.log(LONGEST / SHORTEST)
    downtimes = [SHORTEST * math.exp(spread * (place + chance.random()) / count) for place in range(count)]
    chance.shuffle(downtimes)
    return downtimes


def _outage(server: NatsServer, watch: Watch, downtime: float) -> Round:
    killed = time.monotonic()
    watch.arm(killed)
    server.kill()
    time.sleep(downtime)
    server.start()
    watch.wait(GIVE_UP)
    # Whoever saw the INFO first: the load, which looks every 2 ms as well, or the one who started the server.
    up = min(server.ready_time, watch.answered)
    return Round(downtime=up - killed, recovery=watch.handled - up)


def _print_round(kind: str, number: int, found: Round) -> None:
    verdict = "ok" if found.kept else "LATE"
    took = f"{found.recovery * 1000:6.1f} ms" if math.isfinite(found.recovery) else f"not within {GIVE_UP:g} s"
    print(
        f"  {kind:9} {number:3}: down {found.downtime:4.2f} s, handled after {took} "
        f"(bound {found.bound * 1000:3.0f} ms) {verdict}",
        flush=True,
    )


def _judge(kind: str, rounds: Sequence[Round]) -> bool:
    times = sorted(found.recovery * 1000 for found in rounds)
    high = times[math.ceil(SHARE * len(times)) - 1]
    kept = sum(found.kept for found in rounds)
    good = kept >= SHARE * len(rounds)
    figures = f"p50 {statistics.median(times):.1f} ms, p95 {high:.1f} ms, max {times[-1]:.1f} ms"
    print(f"{_verdict(good)} recovery {kind}: {figures}; {kept} of {len(rounds)} within their bound", flush=True)
    return good


def confirmed(options: argparse.Namespace) -> bool:
    """Every confirmed message is stored once, in order per thread, and handled."""
    each = options.messages // THREADS
    print(f"confirmed: {KILLS} x kill -9 under {each * THREADS:,} publishes from {THREADS} threads")
    handled: Counter[bytes] = Counter()
    counted = [0] * THREADS

    def count(message: Message) -> None:
        handled[message.payload] += 1

    with NatsServer() as server:
        with EventBus(server.url) as bus:
            bus.subscribe("soak.confirmed", count, group="soak")
            retried = _publish_through_kills(server, bus, each, counted)
            wanted = each * THREADS
            wait_until(lambda: len(handled) >= wanted, 60.0, message=lambda: f"{len(handled)} of {wanted} handled")
        stored = read_stream(server.address, "soak")
    return _judge_confirmed(each, stored, handled, retried)


def _publish_through_kills(server: NatsServer, bus: EventBus, each: int, counted: list[int]) -> int:
    """Publish on all threads, kill the server on the way; the number of calls that had to be repeated."""
    retried = [0] * THREADS
    threads = [
        threading.Thread(target=_publish_all, args=(bus, number, each, counted, retried), daemon=True)
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for kill in range(1, KILLS + 1):
        mark = each * THREADS * kill // (KILLS + 1)
        wait_until(lambda mark=mark: sum(counted) >= mark, 60.0, message=f"{mark} confirmed")  # type: ignore[misc]
        server.kill()
        print(f"  killed with {sum(counted):,} confirmed", flush=True)
        time.sleep(0.3)
        server.start()
    for thread in threads:
        thread.join(60.0)
    if sum(counted) != each * THREADS:
        raise RuntimeError(f"only {sum(counted)} publishes were confirmed")
    return sum(retried)


def _publish_all(bus: EventBus, number: int, count: int, counted: list[int], retried: list[int]) -> None:
    for position in range(count):
        id = None
        while True:
            try:
                bus.publish("soak.confirmed", f"{number}:{position}", id=id)
                break
            except PublishError as error:  # again, with the same id
                id = error.id
                retried[number] += 1
        counted[number] += 1


def _judge_confirmed(each: int, stored: Sequence[bytes], handled: Counter[bytes], retried: int) -> bool:
    wanted = {f"{number}:{position}".encode() for number in range(THREADS) for position in range(each)}
    order: dict[bytes, list[int]] = {}
    for payload in stored:
        number, _, position = payload.partition(b":")
        order.setdefault(number, []).append(int(position))
    lost, twice = len(wanted - set(stored)), len(stored) - len(set(stored))
    unhandled, again = len(wanted - handled.keys()), handled.total() - len(handled)
    disordered = sum(positions != sorted(positions) for positions in order.values())
    good = not (lost or twice or unhandled or disordered)
    print(
        f"{_verdict(good)} confirmed: {lost} lost, {twice} stored twice, {disordered} threads out of order, "
        f"{unhandled} not handled; {again} handled again, {retried} calls repeated",
        flush=True,
    )
    return good


def leaks(options: argparse.Namespace) -> bool:
    """One core and one JetStream bus, each with a subscription, through reconnect after reconnect."""
    print(f"leaks: {options.reconnects} x kill -9 and restart, a core and a JetStream bus")
    warm = max(1, int(options.reconnects * WARM))
    with (
        NatsServer() as server,
        EventBus(f"{server.url}?jetstream=false&name=core") as core,
        EventBus(f"{server.url}?name=stream") as stream,
    ):
        handled = {bus: _count_handled(bus) for bus in (core, stream)}
        before = None
        for number in range(1, options.reconnects + 1):
            _reconnect(server, handled, number)
            if number == warm:
                before = settled(None)
                print(f"  after {number}: {before}", flush=True)
        after = settled(before)
        print(f"  after {options.reconnects}: {after}", flush=True)
    assert before is not None
    return _judge_leaks(before, after, options.reconnects - warm)


def _count_handled(bus: EventBus) -> Callable[[], int]:
    """Subscribe; what is returned says how much was handled."""
    bus.subscribe("soak.leaks", lambda message: None, group="soak")
    return lambda: bus.get_statistics().handled


def _reconnect(server: NatsServer, handled: dict[EventBus, Callable[[], int]], number: int) -> None:
    """Kill the server and start it; return when each bus is back and has handled a message of its own."""
    server.restart()
    for bus, count in handled.items():
        wait_until(lambda bus=bus: bus.get_connection_state().reconnect_count >= number, GIVE_UP)  # type: ignore[misc]
        before = count()
        bus.publish("soak.leaks", b"x")
        wait_until(lambda count=count, before=before: count() > before, GIVE_UP)  # type: ignore[misc]


def _judge_leaks(before: Holdings, after: Holdings, reconnects: int) -> bool:
    grown = after.memory - before.memory
    objects = after.objects - before.objects
    good = (
        after.threads <= before.threads
        and after.descriptors <= before.descriptors
        and objects < MOST_OBJECTS
        and grown < MOST_GROWTH
    )
    print(
        f"{_verdict(good)} leaks: threads {after.threads - before.threads:+}, "
        f"descriptors {after.descriptors - before.descriptors:+}, memory {grown / 1024:+.0f} KiB, "
        f"objects {objects:+}, over {reconnects} reconnects",
        flush=True,
    )
    return good


def _verdict(good: bool) -> str:
    return "PASS" if good else "MISS"


NATS_PARTS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "recovery": recovery,
    "confirmed": confirmed,
    "leaks": leaks,
}
PARTS = {
    **NATS_PARTS,
    **KAFKA_PARTS,
    "conformance": conformance,
    "world": world,
    "gunicorn": gunicorn,
    "gevent": gevent,
}
BACKENDS = {"nats": NATS_PARTS, "kafka": KAFKA_PARTS, None: PARTS}


def main() -> int:
    """Run the parts; 1 if one of them found a promise broken."""
    options = _options()
    started = time.monotonic()
    print(f"seed {options.seed}", flush=True)
    good = []
    for name, part in BACKENDS[options.backend].items():
        if options.only and name not in options.only:
            continue
        began = time.monotonic()
        try:
            good.append(part(options))
        except ServerUnavailable as error:
            if options.only or options.backend:
                raise
            print(f"{name} is left out: {error}", flush=True)
        except Exception:  # the others are of interest all the same
            traceback.print_exc()
            print(f"FAIL {name}: it did not come to its end", flush=True)
            good.append(False)
        print(f"  {name} took {time.monotonic() - began:.0f} s", flush=True)
    kept = bool(good) and all(good)
    print(f"{_verdict(kept)} in {time.monotonic() - started:.0f} s")
    return 0 if kept else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="outages per kind of NATS (30)")
    parser.add_argument("--messages", type=int, default=20_000, help="confirmed publishes (20000)")
    parser.add_argument("--reconnects", type=int, default=200, help="for the leaks (200)")
    parser.add_argument("--samples", type=int, default=3, help="outages of each length for kafka-recovery (3)")
    parser.add_argument(
        "--outages", type=float, nargs="+", metavar="SECONDS", help=f"for kafka-recovery {(*map(int, OUTAGES),)}"
    )
    parser.add_argument("--away", type=float, default=15.0, help="seconds without a node for kafka-nodes (15)")
    parser.add_argument("--nodes", type=int, default=3, help="how many of the three are taken away (3)")
    parser.add_argument("--swaps", type=int, default=50, help="for kafka-swaps (50)")
    parser.add_argument("--seed", type=int, default=None, help="for the downtimes; printed, to repeat them")
    parser.add_argument("--backend", choices=[name for name in BACKENDS if name], help="its parts only")
    parser.add_argument("--only", action="append", choices=PARTS, help="one part; may be given again")
    options = parser.parse_args()
    options.seed = random.randrange(10**6) if options.seed is None else options.seed
    counts = (options.rounds, options.messages // THREADS, options.reconnects, options.samples, options.swaps)
    if min(counts) < 1:
        parser.error("counts must be positive")
    return options


if __name__ == "__main__":
    sys.exit(main())
