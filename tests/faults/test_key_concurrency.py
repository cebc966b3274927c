"""Many lanes, each key in order: while all is well, and while the process that handles is killed again and again.

`EVENTBUS_SOAK=1` kills five times instead of once. How much faster lanes are is measured by `make bench`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ordered_group import GROUP, Member

from eventbus import EventBus, Message
from eventbus.testing import wait_until
from eventbus.testing.history import History
from eventbus.testing.memory import MemoryOutages
from eventbus.testing.outages import not_applicable

SOAK = bool(os.environ.get("EVENTBUS_SOAK"))
KILLS = 5 if SOAK else 1
MESSAGES, KEYS, LANES, WORK = 2000, 20, 16, 0.002
LONG = 60.0
"""Seconds for what takes a few: where a member was killed, the others wait for the end of its session or lease."""
pytestmark = [pytest.mark.watchdog(60.0 + 30.0 * KILLS)]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("memory", id="memory"),
        pytest.param("nats_server_shared", id="jetstream", marks=pytest.mark.nats),
        pytest.param("kafka_server_shared", id="kafka", marks=pytest.mark.kafka),
    ],
)
def settings(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Of a bus on one of the backends."""
    if request.param == "memory":
        yield {"url": "memory://keys"}
        MemoryOutages("keys").forget()
        return
    url = request.getfixturevalue(request.param).url
    yield {"url": url, "partitions": 4} if url.startswith("kafka") else {"url": url}


def topic_of(request: pytest.FixtureRequest) -> str:
    """A topic of this run alone, in a stream of its own."""
    return f"keys{os.getpid()}-{time.monotonic_ns()}.{request.node.originalname}"


def publish_all(bus: EventBus, topic: str, history: History) -> None:
    """All keys in turn, in one pipelined call."""
    payloads = [history.payload(f"k{number % KEYS}", number) for number in range(MESSAGES)]
    messages = [Message(topic, payload, key=payload.partition(":")[0]) for payload in payloads]
    for payload, receipt in zip(payloads, bus.publish_many(messages), strict=True):
        history.confirm(payload, receipt)


def test_lanes_keep_each_key_in_order(settings: dict[str, Any], request: pytest.FixtureRequest) -> None:
    history, topic = History(), topic_of(request)
    with EventBus(settings) as bus:
        publish_all(bus, topic, history)
        handler = history.handler_of(lambda message: time.sleep(WORK))
        bus.subscribe(topic, handler, group=GROUP, concurrency=LANES)
        wait_until(lambda: history.all_done, LONG, message=history.summary)
    assert history.check() == []
    assert history.duplicates() == {}


def test_a_killed_process_leaves_nothing_behind_and_its_successor_keeps_the_order(
    settings: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """One process of an ordered group after the other, each killed with -9 in the middle of its work."""
    if settings["url"].startswith("memory"):
        not_applicable("a memory broker ends with its process")
    history, topic = History(), topic_of(request)
    members: list[Member] = []

    def start() -> Member:
        path = tmp_path / f"member-{len(members)}"
        members.append(Member(settings, path, len(members), topic=topic, lanes=LANES, pause=WORK))
        return members[-1]

    def done() -> int:
        return len({one.payload for member in members for one in member.handled()})

    with EventBus(settings) as bus:
        publish_all(bus, topic, history)
    try:
        for number in range(1, KILLS + 1):
            member, goal = start(), number * MESSAGES // (KILLS + 2)
            wait_until(lambda member=member, goal=goal: member.size and done() >= goal, LONG)
            member.kill()
        start()
        wait_until(lambda: done() == MESSAGES, LONG, message=lambda: f"{done()} of {MESSAGES} were handled")
    finally:
        for member in members:
            member.end()
    for one in sorted(one for member in members for one in member.handled()):
        history.deliver(one.payload)
        history.handle(one.payload)
    print(f"{settings['url']}, {KILLS} x kill -9: {history.summary()}")
    assert history.check() == []
