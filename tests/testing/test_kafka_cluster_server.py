"""Three real brokers that agree on leaders, and on others when those are killed."""

from __future__ import annotations

import pytest
from kafka_support import consume, make_topic, metadata, produce

from eventbus.testing import KafkaCluster, KafkaServer, ServerFailed, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def test_three_brokers_a_leader_and_a_new_one(kafka_cluster: KafkaCluster) -> None:
    assert [server.name for server in kafka_cluster.servers] == ["k1", "k2", "k3"]
    assert kafka_cluster.bootstrap.split(",") == [server.bootstrap for server in kafka_cluster.servers]
    assert kafka_cluster.url == f"kafka://{kafka_cluster.bootstrap}"
    assert set(metadata(kafka_cluster).brokers) == {1, 2, 3}
    make_topic(kafka_cluster, "replicated")
    kafka_cluster.wait_in_sync()
    assert produce(kafka_cluster, "replicated", b"before") == [0]
    first = kafka_cluster.partition_leader("replicated")
    assert first is not None
    assert kafka_cluster.partition_leader("no-such-topic") is None
    copies = {each.replicas for each in first.view().partitions if each.topic == "replicated"}
    assert [set(copy) for copy in copies] == [{1, 2, 3}]

    first.kill()
    assert len(kafka_cluster.running) == 2
    second: KafkaServer | None = wait_until(lambda: kafka_cluster.partition_leader("replicated"), 20.0)
    assert second is not first
    kafka_cluster.wait_ready()
    assert produce(kafka_cluster, "replicated", b"after") == [0]
    coordinator = wait_until(lambda: kafka_cluster.group_coordinator("readers"), 20.0)
    assert coordinator in kafka_cluster.running
    assert consume(kafka_cluster, "replicated", 2) == [b"before", b"after"]
    kafka_cluster.start()
    assert len(kafka_cluster.running) == 3
    kafka_cluster.wait_in_sync()
    assert all(set(each.in_sync) == {1, 2, 3} for each in first.view().partitions)


def test_a_proxy_for_each_and_everything_survives_a_power_cut() -> None:
    with KafkaCluster(2, proxied=True, user="alice", password="x", acl=True) as cluster:
        ports = [proxy.port for proxy in cluster.proxies]
        assert cluster.bootstrap == ",".join(f"127.0.0.1:{port}" for port in ports)
        make_topic(cluster, "mine")
        cluster.access.deny("alice", "mine")
        brokers = metadata(cluster).brokers
        assert [brokers[node].port for node in (1, 2)] == ports
        cluster.restart()
        assert metadata(cluster, "mine").topics["mine"].error is not None
        cluster.access.restore("alice", "mine")
        assert produce(cluster, "mine", b"1") == [0]
        cluster.stop(1.0)
        assert cluster.running == []
        with pytest.raises(ServerFailed, match="no broker"):
            _ = cluster.access


def test_an_empty_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="cluster of 0"):
        KafkaCluster(0)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError):
        KafkaCluster(2, no_such_option=True)
