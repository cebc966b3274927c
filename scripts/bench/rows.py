"""The claims: what is measured on both sides, how often, and what it must come to."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from scripts.bench.kafka_rows import KAFKA_ROWS
from scripts.bench.row import LANES, ONE_LANE, Row
from scripts.bench.stage import Stage

_MIB = 1024 * 1024
_DEFAULT: Mapping[str, Any] = {}


def _loops(*settings: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The settings on the standard event loop, and on uvloop where it is installed."""
    if importlib.util.find_spec("uvloop") is None:
        return settings
    return (*settings, *({**setting, "uvloop": True} for setting in settings))


_BUFFERS = _loops(*({"pending_size": size} for size in (2 * _MIB, 512 * 1024, 128 * 1024, 8 * _MIB)))
_WINDOWS = _loops(*({"window": size} for size in (256, 512, 1000, 4000, 16_000)))

_NATS_ROWS = (
    Row(
        name="core-publish",
        title="core publish_nowait + flush",
        measure=Stage.publish,
        ours="core_publish",
        peer="core_publish",
        target=2.0,
        count=500_000,
        peer_settings=_BUFFERS,
    ),
    Row(
        name="core-publish-unchecked",
        title="the same, nats-py with its subject check off",
        measure=Stage.publish,
        ours="core_publish",
        peer="core_publish",
        count=500_000,
        peer_settings=tuple({**setting, "unchecked": True} for setting in _BUFFERS),
    ),
    Row(
        name="core-deliver",
        title="core delivery to a handler",
        measure=Stage.deliver,
        ours="core_subscribe",
        peer="core_subscribe",
        target=3.0,
        count=400_000,
        peer_settings=_loops(_DEFAULT),
    ),
    Row(
        name="core-e2e",
        title="core end to end, own publisher",
        measure=Stage.end_to_end,
        ours="core_subscribe",
        peer="core_subscribe",
        count=300_000,
        peer_settings=_loops(_DEFAULT),
    ),
    Row(
        name="js-publish",
        title="JetStream publish, one by one",
        measure=Stage.store,
        ours="js_publish",
        peer="js_publish",
        target=1.1,
        count=5_000,
        peer_settings=_loops(_DEFAULT),
    ),
    Row(
        name="js-publish-many",
        title="JetStream publish_many",
        measure=Stage.store,
        ours="js_publish_many",
        peer="js_publish_async",
        target=1.3,
        count=50_000,
        peer_settings=_WINDOWS,
    ),
    Row(
        name="js-publish-async",
        title="JetStream publish_async",
        measure=Stage.store,
        ours="js_publish_async",
        peer="js_publish_async",
        target=1.3,
        count=50_000,
        peer_settings=_WINDOWS,
    ),
    Row(
        name="js-consume",
        title="JetStream consume + ack, against fetch(100)",
        measure=Stage.consume,
        ours="js_consume",
        peer="js_consume",
        target=3.5,
        count=60_000,
        peer_settings=_loops({"batch": 100}),
    ),
    Row(
        name="js-batches",
        title="JetStream batches of 500 + ack, against fetch(500)",
        measure=Stage.consume,
        ours="js_consume_batches",
        peer="js_consume",
        target=4.0,
        count=60_000,
        peer_settings=_loops({"batch": 500}),
    ),
    Row(
        name="js-consume-push",
        title="JetStream consume + ack, against push",
        measure=Stage.consume,
        ours="js_consume",
        peer="js_consume",
        count=60_000,
        peer_settings=_loops({"push": True}),
    ),
    Row(
        name="js-consume-batch",
        title="JetStream consume + ack, against best batch",
        measure=Stage.consume,
        ours="js_consume",
        peer="js_consume",
        count=60_000,
        peer_settings=_loops({"batch": 250}, {"batch": 1000}),
    ),
    Row(
        name="js-lanes",
        title="JetStream, a 2 ms handler of 20 keys on 16 lanes",
        measure=Stage.handle,
        ours="js_lanes",
        peer="js_lanes",
        against="one lane",
        target=10.0,
        count=2_000,
        settings=LANES,
        peer_settings=ONE_LANE,
    ),
    Row(
        name="js-around",
        title="JetStream consume: retries, dead letters, middleware, statistics, against none",
        measure=Stage.consume,
        ours="js_consume",
        our_settings={"around": True},
        peer="js_consume",
        against="without them",
        target=0.8,
        count=60_000,
        peer_settings=({"around": False},),
    ),
    Row(
        name="memory",
        title="memory, published and handled",
        measure=Stage.alone,
        ours="memory",
        target=200_000.0,
        count=500_000,
    ),
)

ROWS = (*_NATS_ROWS, *KAFKA_ROWS)
IMPORT = "import"
IMPORT_ROUNDS = 10
IMPORT_TARGET = 0.1
NAMES = (*(row.name for row in ROWS), IMPORT)
