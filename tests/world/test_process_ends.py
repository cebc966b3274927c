"""What was accepted and not waited for, where a process ends without `close()`: multiprocessing's ways, and others."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from world_support import Seen, fresh

from eventbus import EventBus
from eventbus.testing import KafkaServer, NatsServer

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(60.0)]

EACH = 50
PROGRAM = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import eventbus

method, url, topic = sys.argv[1:4]
bus = eventbus.EventBus(url)

def publish(number):
    bus.open(wait=False)  # does nothing where a fork's child has the parent's bus
    for count in range(int(sys.argv[4])):
        bus.publish_nowait(topic, f"{number}-{count}".encode())

if __name__ == "__main__":
    if method == "none":
        publish(0)
        sys.exit()
    if method == "fork":
        bus.open(timeout=20.0)
    context = multiprocessing.get_context(method)
    children = [context.Process(target=publish, args=(number,)) for number in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        list(pool.map(publish, [2]))
    print([child.exitcode for child in children])
    bus.close()
"""


def run_program(tmp_path: Path, method: str, url: str, topic: str) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(program), method, url, topic, str(EACH)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def check_all_there(url: str, topic: str, numbers: range) -> None:
    seen = Seen()
    with EventBus(url) as bus:
        bus.subscribe(topic, seen, group="g")
        seen.wait(len(numbers) * EACH)
    assert sorted(seen.payloads) == sorted(f"{number}-{count}".encode() for number in numbers for count in range(EACH))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_of_multiprocessing_leave_nothing_unsent(
    method: str, nats_server_shared: NatsServer, tmp_path: Path
) -> None:
    topic = fresh("orders")
    done = run_program(tmp_path, method, nats_server_shared.url, topic)
    assert (done.returncode, done.stdout) == (0, "[0, 0]\n"), done.stderr
    assert "may be lost" not in done.stderr
    assert (method == "fork") == (not done.stderr), "only who opened a bus has forgotten to close it"
    check_all_there(nats_server_shared.url, topic, range(3))


@pytest.mark.kafka
def test_children_of_multiprocessing_leave_nothing_unsent_on_kafka(
    kafka_server_shared: KafkaServer, tmp_path: Path
) -> None:
    topic = fresh("orders")
    done = run_program(tmp_path, "fork", kafka_server_shared.url, topic)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 0]\n", "")
    check_all_there(kafka_server_shared.url, topic, range(3))


def test_a_program_that_ends_as_it_connects_sends_what_it_has_published(
    nats_server_shared: NatsServer, tmp_path: Path
) -> None:
    topic = fresh("orders")
    done = run_program(tmp_path, "none", nats_server_shared.url, topic)
    assert done.returncode == 0 and "may be lost" not in done.stderr
    check_all_there(nats_server_shared.url, topic, range(1))


def test_children_end_in_time_and_say_what_they_leave_where_no_broker_is(tmp_path: Path) -> None:
    with NatsServer() as server:
        url = server.url
    started = time.monotonic()
    done = run_program(tmp_path, "spawn", url, "orders")
    assert (done.returncode, done.stdout) == (0, "[0, 0]\n")
    assert done.stderr.count(f"{EACH} accepted messages were not confirmed and may be lost") == 3
    assert time.monotonic() - started < 20.0
