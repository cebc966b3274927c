"""Three real servers that elect a leader, and another one when that is killed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from testing_support import Wire

from eventbus.testing import NatsCluster, NatsServer, wait_until

pytestmark = pytest.mark.nats


def test_three_servers_one_leader_and_a_new_one(nats_cluster: NatsCluster, wire: Callable[..., Wire]) -> None:
    first = nats_cluster.leader()
    assert first in nats_cluster.servers
    assert first is not None
    assert [server.name for server in nats_cluster.servers] == ["n0", "n1", "n2"]
    assert len(set(nats_cluster.urls)) == 3
    client = wire(first.address)
    client.hello()
    assert "error" not in client.make_stream("replicated", replicas=3)
    wait_until(lambda: nats_cluster.stream_leader("replicated"), message="a leader of the stream")
    assert nats_cluster.stream_leader("no-such-stream") is None
    assert nats_cluster.consumer_leader("replicated", "none") is None

    first.kill()
    assert len(nats_cluster.running) == 2
    second: NatsServer | None = wait_until(nats_cluster.leader, 20.0, message="a new leader")
    assert second is not first
    nats_cluster.start()
    assert len(nats_cluster.running) == 3
    assert nats_cluster.leader() is not None


def test_an_empty_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="cluster of 0"):
        NatsCluster(0)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError):
        NatsCluster(2, no_such_option=True)
