"""`eventbus consume` on a real Kafka: a clean end commits what was finished; without a broker it ends in time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from consume_support import QUICK, START, Program, consume

from eventbus import EventBus
from eventbus.testing import KafkaServer, wait_until
from eventbus.testing.plugin import skip_or_fail

pytestmark = [pytest.mark.kafka, pytest.mark.watchdog(120)]

JOIN = 30.0
"""Seconds that a process has to start, to join its group and to be given partitions, on a busy machine."""
CLOSE = 10.0
"""The default `close_timeout`."""

_topics = count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[KafkaServer]:
    with skip_or_fail(), KafkaServer(fast=True) as made:
        yield made


@pytest.fixture
def topic() -> str:
    return f"orders.n{next(_topics)}"


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def publish(server: KafkaServer, topic: str, *texts: str) -> None:
    with EventBus(server.url) as bus:
        for text in texts:
            bus.publish_nowait(topic, text, key=text)
        assert bus.flush().unanswered == 0


def test_a_handler_that_runs_is_finished_and_committed(program: Program, server: KafkaServer, topic: str) -> None:
    publish(server, topic, "1")
    with consume(program, "hold", server.url, topic=topic) as process:
        wait_until(lambda: program.seen() == ["begins 1"], JOIN)
        process.send()
        process.wait_said("SIGTERM: closing")
        program.release()
        assert process.end(CLOSE) == 0, process.text
    with consume(program, "handle", server.url, topic=topic) as process:
        publish(server, topic, "2")
        wait_until(lambda: program.handled()["2"] == 1, JOIN)
        process.send()
        assert process.end(CLOSE) == 0, process.text
    assert program.handled() == {"1": 1, "2": 1}


def test_no_message_twice_and_none_lost_across_a_clean_end(program: Program, server: KafkaServer, topic: str) -> None:
    program.write("def slowly(message):\n    threading.Event().wait(0.002)\n    handle(message)\n")
    texts = [str(number) for number in range(3000)]
    publish(server, topic, *texts)
    for _ in range(2):
        before = program.handled().total()
        with consume(program, "slowly", f"{server.url}?prefetch=100", "--concurrency", "4", topic=topic) as process:
            wait_until(lambda: program.handled().total() > before + 200, JOIN)  # noqa: B023
            process.send()
            assert process.end(CLOSE + QUICK) == 0, process.text
    assert len(program.handled()) < len(texts), "the last one had nothing to do"
    with consume(program, "handle", server.url, "--concurrency", "4", topic=topic) as process:
        wait_until(lambda: len(program.handled()) == len(texts), JOIN)
        process.send()
        assert process.end(CLOSE) == 0, process.text
    assert program.handled() == dict.fromkeys(texts, 1)


def test_a_second_signal_leaves_at_once(program: Program, server: KafkaServer, topic: str) -> None:
    publish(server, topic, "1")
    with consume(program, "hold", server.url, topic=topic) as process:
        wait_until(lambda: program.seen() == ["begins 1"], JOIN)
        process.send(2)
        process.wait_said("SIGINT: closing")
        process.send()
        assert process.end() == 1, process.text
        last = process.records()[-1]
    assert last["unhandled"] == 1
    assert any(f"lane-{topic}" in name for name in last["unfinished_threads"])


@pytest.mark.parametrize("how", ["freeze", "kill"])
def test_an_end_without_the_broker(program: Program, server: KafkaServer, topic: str, how: str) -> None:
    publish(server, topic, "1")
    with consume(program, "handle", server.url, topic=topic) as process:
        wait_until(lambda: program.handled() == {"1": 1}, JOIN)
        getattr(server, how)()
        try:
            process.send()
            process.end(CLOSE + QUICK)
            assert process.records()[-1]["unhandled"] == 0
        finally:
            if how == "freeze":
                server.thaw()
            else:
                server.start()


def test_an_end_while_it_connects_for_the_first_time(program: Program) -> None:
    with consume(program, "handle", "kafka://127.0.0.1:1") as process:
        process.wait_said('"phase": "reconnecting"', START)
        process.send()
        assert process.end() == 0, process.text
