"""The claims about Kafka, against confluent-kafka used directly with the same options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scripts.bench.kafka_stage import KafkaStage
from scripts.bench.row import LANES, ONE_LANE, Row

_SERVED: Mapping[str, Any] = {"serve": 128}
_QUICK: Mapping[str, Any] = {"warm_up": 5_000}
_CALM: Mapping[str, Any] = {"warm_up": 50}


def _nowait(threads: int) -> Row:
    return Row(
        name=f"kafka-nowait-{threads}",
        title=f"Kafka publish_nowait + flush, {threads} thread{'s' * (threads > 1)}",
        measure=KafkaStage.store,
        ours="nowait",
        peer="nowait",
        stage="kafka",
        target=0.9,
        count=300_000,
        settings={**_QUICK, "threads": threads},
        peer_settings=(_SERVED,),
    )


def _keyed(threads: int) -> Row:
    return Row(
        name=f"kafka-keyed-{threads}",
        title=f"the same with a key, {threads} thread{'s' * (threads > 1)}",
        measure=KafkaStage.store,
        ours="nowait",
        peer="nowait",
        stage="kafka",
        target=0.65,
        count=300_000,
        settings={**_QUICK, "threads": threads, "keys": 1000},
        peer_settings=(_SERVED,),
    )


def _p99(threads: int) -> Row:
    return Row(
        name=f"kafka-p99-{threads}",
        title=f"Kafka publish, p99 at {threads} thread{'s' * (threads > 1)}",
        measure=KafkaStage.p99,
        ours="sync",
        peer="sync",
        stage="kafka",
        unit="s",
        target=0.002,
        absolute=True,
        most=True,
        count=1_500 if threads == 1 else 500 * threads,
        settings={**_CALM, "threads": threads},
    )


KAFKA_ROWS = (
    _nowait(1),
    _nowait(4),
    _nowait(8),
    _keyed(1),
    _keyed(4),
    _keyed(8),
    Row(
        name="kafka-many",
        title="Kafka publish_many, against a produce loop",
        measure=KafkaStage.store,
        ours="many",
        peer="nowait",
        stage="kafka",
        target=0.9,
        count=300_000,
        settings={**_QUICK, "threads": 1},
        peer_settings=(_SERVED,),
    ),
    Row(
        name="kafka-nowait-documented",
        title="the same, 1 thread, against poll(0) each",
        measure=KafkaStage.store,
        ours="nowait",
        peer="nowait",
        stage="kafka",
        count=300_000,
        settings={**_QUICK, "threads": 1},
        peer_settings=({"serve": 1},),
    ),
    Row(
        name="kafka-sync-16",
        title="Kafka publish, 16 threads, against flush each",
        measure=KafkaStage.store,
        ours="sync",
        peer="sync",
        stage="kafka",
        target=2.0,
        count=12_000,
        settings={**_CALM, "threads": 16},
    ),
    _p99(1),
    _p99(16),
    Row(
        name="kafka-consume",
        title="Kafka consume, against poll + store",
        measure=KafkaStage.consume,
        ours="consume",
        peer="consume",
        stage="kafka",
        target=1.0,
        count=300_000,
        peer_settings=({"batch": 0},),
    ),
    Row(
        name="kafka-consume-text",
        title="the same, key and headers as text on both",
        measure=KafkaStage.consume,
        ours="consume",
        peer="consume",
        stage="kafka",
        count=300_000,
        peer_settings=({"batch": 0, "decode": True},),
    ),
    Row(
        name="kafka-consume-batch",
        title="Kafka consume, against consume(500) + store",
        measure=KafkaStage.consume,
        ours="consume",
        peer="consume",
        stage="kafka",
        target=0.7,
        count=300_000,
        peer_settings=({"batch": 500},),
    ),
    Row(
        name="kafka-batches",
        title="Kafka batches of 500 by columns, against consume(500) + store",
        measure=KafkaStage.consume,
        ours="consume_batches",
        peer="consume",
        stage="kafka",
        target=1.0,
        count=300_000,
        peer_settings=({"batch": 500},),
    ),
    Row(
        name="kafka-lanes",
        title="Kafka, a 2 ms handler of 20 keys on 16 lanes",
        measure=KafkaStage.handle,
        ours="on_lanes",
        peer="on_lanes",
        against="one lane",
        stage="kafka",
        target=10.0,
        count=2_000,
        settings=LANES,
        peer_settings=ONE_LANE,
    ),
    Row(
        name="kafka-around",
        title="Kafka consume: retries, dead letters, middleware, statistics, against none",
        measure=KafkaStage.consume,
        ours="consume",
        our_settings={"around": True},
        peer="consume",
        against="without them",
        stage="kafka",
        target=0.8,
        count=300_000,
        peer_settings=({"around": False},),
    ),
    Row(
        name="kafka-latency",
        title="Kafka publish to handler, idle, p50",
        measure=KafkaStage.latency,
        ours="latency",
        peer="latency",
        stage="kafka",
        unit="s",
        target=0.010,
        absolute=True,
        most=True,
        count=150,
    ),
)
