"""Three Kafka nodes: each is killed and frozen in turn, and the bus goes on with the clients that it has."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import Any

from eventbus import EventBus, ReconnectEvent
from eventbus.testing import KafkaCluster, KafkaServer, wait_until
from scripts.bench.kafka_raw import RawKafka
from scripts.soaking.traffic import GROUP, Traffic, verdict

TOPIC = "soak.nodes"
PARTITIONS = 6
KEYS = 12
RATE = 300.0
CALM = 1.5
"""Seconds of load after a fault, and before the next one."""
BALANCED = 30.0
"""Seconds within which a node that was away leads partitions again."""
_BALANCED = {"leader.imbalance.check.interval.seconds": 2, "leader.imbalance.per.broker.percentage": 0}
FLOWING = 2.0
"""Seconds without a confirmation of any one key after which publishing does not count as going on."""


def nodes(options: argparse.Namespace) -> bool:
    """Time-outs for impatient tests, then those that Kafka has by default."""
    print(f"kafka-nodes: each of three nodes killed for {options.away:g} s, and frozen for {options.away:g} s")
    return all([_nodes(fast, options) for fast in (True, False)])


def _nodes(fast: bool, options: argparse.Namespace) -> bool:
    name = "quick time-outs" if fast else "Kafka's default time-outs"
    with (
        KafkaCluster(3, fast=fast, settings=_BALANCED) as cluster,
        EventBus(f"{cluster.url}?partitions={PARTITIONS}") as bus,
    ):
        traffic = Traffic(bus, TOPIC, KEYS, RATE)
        events: list[ReconnectEvent] = []
        bus.register_reconnect_callback(events.append)
        traffic.start()
        cluster.wait_in_sync()
        before = _clients(bus)
        flows = [
            _fault(cluster, server, kind, options.away, traffic)
            for server in cluster.servers[: options.nodes]
            for kind in ("killed", "frozen")
        ]
        traffic.stop()
        kept = _clients(bus)
        same = len(kept) == len(before) and all(one is other for one, other in zip(before, kept, strict=True))
        whole = traffic.judge(f"kafka-nodes, {name}", RawKafka(cluster.bootstrap))
    how = dict(Counter(event.how for event in events)) or "none"
    good = same and "rebuilt" not in how and all(flows)
    print(
        f"{verdict(good)} kafka-nodes, {name}: {len(before)} clients, {'the same' if same else 'NOT the same'} "
        f"afterwards; reconnect episodes: {how}; publishing went on in {sum(flows)} of {len(flows)} faults",
        flush=True,
    )
    return whole and good


def _fault(cluster: KafkaCluster, server: KafkaServer, kind: str, away: float, traffic: Traffic) -> bool:
    """Take a node away and give it back; True if all keys were flowing while it was away."""
    leads = wait_until(lambda: _leads(cluster, server), BALANCED, message=f"{server.name} leads nothing")
    role = " and coordinator of the group" if cluster.group_coordinator(GROUP) is server else ""
    began = time.monotonic()
    if kind == "killed":
        server.kill()
    else:
        server.freeze()
    time.sleep(away)
    back = time.monotonic()
    flowing = traffic.silent(back) < FLOWING
    if kind == "killed":
        server.start()
    else:
        server.thaw()
    cluster.wait_in_sync()
    time.sleep(CALM)
    end = time.monotonic()
    gap, of_a_key = traffic.gaps(began, back)
    gap_back, of_a_key_back = traffic.gaps(back, end)
    note = "" if flowing else " (NOT going on before it is back)"
    print(
        f"  {server.name} {kind}, leader of {len(leads)} of {PARTITIONS} partitions{role}: longest time "
        f"without a confirmation {gap:.2f} s, of one key {of_a_key:.2f} s{note}; "
        f"when it comes back {gap_back:.2f} s, {of_a_key_back:.2f} s",
        flush=True,
    )
    return flowing


def _leads(cluster: KafkaCluster, server: KafkaServer) -> list[int]:
    """The partitions of the topic that a node leads."""
    return [number for number in range(PARTITIONS) if cluster.partition_leader(TOPIC, number) is server]


def _clients(bus: EventBus) -> tuple[Any, ...]:
    """librdkafka's clients of the session of now."""
    session: Any = bus._supervisor.session
    return tuple(session.clients)
