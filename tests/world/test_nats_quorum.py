"""A cluster without a quorum: its servers speak, and JetStream does not answer."""

from __future__ import annotations

import time

import pytest
from nats_operator import Operator
from rounds import LONG, limit

from eventbus import EventBus, Phase
from eventbus.testing import NatsCluster, NatsServer, TcpProxy, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(90.0))]

SOON = 10.0
"""Seconds, for a busy machine: a request that is on its way when JetStream comes back is given up after one or two."""
RARELY = {"initial_backoff": 60.0, "max_backoff": 60.0}


def leads(server: NatsServer, stream: str) -> bool:
    """Whether the stream has a leader again."""
    try:
        with Operator(server.address, timeout=1.0) as operator:
            return bool(operator.request(f"$JS.API.STREAM.INFO.{stream}")["cluster"]["leader"])
    except (OSError, LookupError, ValueError):
        return False


@pytest.mark.parametrize("kept", [False, True] if LONG else [False])
def test_a_quorum_that_is_back_is_used_at_once(nats_cluster: NatsCluster, kept: bool) -> None:
    """kept: the link is to the server that stays."""
    leader = nats_cluster.leader()
    assert leader is not None
    stays, *others = sorted(nats_cluster.servers, key=lambda server: server is leader)  # which is killed last
    first = stays if kept else others[0]
    check = {"interval": 0.2, "timeout": 1.0}
    with EventBus({"url": first.url, "reconnect": RARELY, "health_check": check, "connect_timeout": 2.0}) as bus:
        assert bus.publish("orders.x", b"x", timeout=10.0).confirmed
        for server in others:
            server.kill()
        wait_until(lambda: "JetStream" in str(bus.get_connection_state().last_error), 30.0)
        assert bus.get_connection_state().phase is Phase.RECONNECTING
        for server in others:
            server.start(wait=False)
        wait_until(lambda: leads(stays, "orders"), 30.0)
        began = time.monotonic()
        assert bus.publish("orders.x", b"y", timeout=40.0).confirmed
        assert time.monotonic() - began < SOON


def test_a_server_without_a_quorum_is_no_answer_of_the_other(nats_server: NatsServer) -> None:
    cluster = NatsCluster(3)
    alone = cluster.servers[0]
    try:
        alone.start()
        with TcpProxy(*nats_server.address) as far:
            far.delay(0.1)
            for _ in range(6):  # which of them is tried first is chance
                url = f"nats://{alone.address[0]}:{alone.port},{far.address[0]}:{far.port}"
                with EventBus({"url": url, "connect_timeout": 4.0}) as bus:
                    assert bus.publish("orders.x", b"x", timeout=5.0).confirmed
    finally:
        cluster.close()
