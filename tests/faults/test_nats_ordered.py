"""Ordered groups on JetStream, whatever dies: nothing is lost, each key is in order, others take over in time.

`EVENTBUS_SOAK=1` goes through the long rounds and prints their figures.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from ordered_group import Member, OrderedGroup, again, inversions

from eventbus.backends.nats.jetstream.durables import durable_name
from eventbus.backends.nats.jetstream.ordered_durable import LEASE
from eventbus.testing import NatsCluster, NatsServer, wait_until

SOAK = bool(os.environ.get("EVENTBUS_SOAK"))
pytestmark = [pytest.mark.nats, pytest.mark.watchdog(300.0 if SOAK else 60.0)]

IN_TIME = 1.5 * LEASE
AT_ONCE = 0.2
SLACK = 0.3
"""Seconds more on a busy machine, in the tests that are no measurement."""
BETWEEN = 2.5 if SOAK else 0.5
"""Seconds at work between two faults: a member that has just come learns who else there is."""


def rest(seconds: float) -> None:
    """How long the group is at work; nothing is synchronised by it."""
    threading.Event().wait(seconds)


def judge(what: str, group: OrderedGroup, gaps: list[float], most_again: int, most_gap: float) -> None:
    """Nothing lost, nothing out of order, few again, each take-over in time; the figures are printed."""
    handled = group.drained()
    twice = again(handled)
    shown = ", ".join(f"{gap:.3f}" for gap in gaps)
    print(f"{what}: {len(group.confirmed)} confirmed, {len(handled)} handled, {twice} again, take-overs {shown} s")
    assert inversions(handled) == []
    assert twice <= most_again
    assert max(gaps) <= most_gap + (0.0 if SOAK else SLACK)


def others(group: OrderedGroup, one: Member) -> list[Member]:
    return [member for member in group.members if member is not one and member.process.poll() is None]


def ready(server: NatsServer, number: int) -> None:
    """So many members wait at the server."""

    def waiting() -> int:
        return max(int(one.get("num_waiting") or 0) for one in consumers(server))

    wait_until(lambda: waiting() >= number, 15.0)
    rest(BETWEEN)


def consumers(server: NatsServer) -> list[dict[str, Any]]:
    page = server.monitor("jsz?consumers=1&streams=1&config=1", timeout=5.0)
    return [
        consumer
        for account in page.get("account_details") or ()
        for stream in account.get("stream_detail") or ()
        for consumer in stream.get("consumer_detail") or ()
    ]


@pytest.mark.parametrize("rounds", [5 if SOAK else 1])
def test_killed_members_are_followed_in_order_and_in_time(nats_server: NatsServer, tmp_path: Path, rounds: int) -> None:
    gaps = []
    with OrderedGroup(nats_server.url, tmp_path).at_work() as group:
        for _ in range(rounds):
            ready(nats_server, 2)
            active = group.active
            gaps.append(group.takes_over(active.kill, *others(group, active)))
            group.start()
        judge("kill -9 of the active member", group, gaps, 1000 * rounds, IN_TIME)


@pytest.mark.parametrize("rounds", [5 if SOAK else 1])
def test_killed_members_of_a_full_group_are_followed_in_order_and_in_time(
    nats_server: NatsServer, tmp_path: Path, rounds: int
) -> None:
    """The window is full all the time: the server has nothing to pin a new member by."""
    gaps = []
    with OrderedGroup(nats_server.url, tmp_path, pause=0.012, window=100).at_work() as group:
        for _ in range(rounds):
            ready(nats_server, 1)
            active = group.active
            gaps.append(group.takes_over(active.kill, *others(group, active)))
            group.start()
        judge("kill -9 with a full window", group, gaps, 100 * rounds, IN_TIME)


@pytest.mark.parametrize("rounds", [3 if SOAK else 1])
def test_frozen_members_are_followed_in_order_and_start_nothing_any_more(
    nats_server: NatsServer, tmp_path: Path, rounds: int
) -> None:
    """A member that was stopped goes on where it was: it must start nothing any more."""
    gaps = []
    with OrderedGroup(nats_server.url, tmp_path).at_work() as group:
        for _ in range(rounds):
            ready(nats_server, 2)
            active = group.active
            stop = lambda active=active: os.kill(active.process.pid, signal.SIGSTOP)  # noqa: E731
            gaps.append(group.takes_over(stop, *others(group, active)))
            rest(BETWEEN)
            os.kill(active.process.pid, signal.SIGCONT)
            rest(BETWEEN)
        judge("SIGSTOP of the active member", group, gaps, 1000 * rounds, IN_TIME)


@pytest.mark.parametrize("rounds", [4 if SOAK else 1])
def test_a_killed_server_costs_no_order(tmp_path: Path, rounds: int) -> None:
    gaps = []
    with NatsServer() as server, OrderedGroup(server.url, tmp_path).at_work() as group:
        for _ in range(rounds):
            ready(server, 2)
            server.kill()
            rest(0.5)
            gaps.append(group.takes_over(server.start, from_its_end=True))
            rest(BETWEEN)
        judge("kill -9 of the server", group, gaps, 1000 * rounds, IN_TIME)


@pytest.mark.parametrize("rounds", [3 if SOAK else 1])
def test_members_that_close_hand_over_at_once(nats_server: NatsServer, tmp_path: Path, rounds: int) -> None:
    gaps = []
    with OrderedGroup(nats_server.url, tmp_path).at_work() as group:
        for _ in range(rounds):
            ready(nats_server, 2)
            rest(LEASE)
            active = group.active
            group.takes_over(active.close, *others(group, active))
            last = max(one.at for one in active.handled())
            next_ones = [one.at for member in others(group, active) for one in member.handled() if one.at > last]
            gaps.append(min(next_ones) - last)
            group.start()
        judge("a clean close of the active member", group, gaps, 0, AT_ONCE)


@pytest.mark.skipif(not SOAK, reason="not applicable: only in the long form, an election takes some seconds")
def test_a_killed_leader_of_a_cluster(nats_cluster: NatsCluster, tmp_path: Path) -> None:
    """Members are on other servers than the leader, or on it; a lease is waited for after the election."""
    gaps = []
    url = "nats://" + ",".join(one.removeprefix("nats://") for one in nats_cluster.urls)
    with OrderedGroup(url, tmp_path, rate=500.0).at_work() as group:
        for _ in range(3):
            rest(2 * BETWEEN)
            name = durable_name("g", "work.*", True)
            leader = wait_until(lambda name=name: nats_cluster.consumer_leader("work", name), 15.0)
            gaps.append(group.takes_over(leader.kill, timeout=30.0, from_its_end=True))
            rest(2 * BETWEEN)
            leader.start()
        judge("kill -9 of the leader in a cluster", group, gaps, 3000, 15.0)
