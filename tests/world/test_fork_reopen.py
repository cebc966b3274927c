"""Interrupted, by a fork: a child publishes on its parent's bus, and the parent notices nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rounds import SEED, limit, rounds
from world_support import fresh, run_script

from eventbus.testing import KafkaServer, NatsServer

PARENT = """
import json, random
from collections import Counter

url, topic, forks, seed, shared = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5] == "shared"
chance = random.Random(seed)
print(f"seed {seed}", file=sys.stderr)
bus = eventbus.EventBus(url)
handled, published, childrens = Counter(), set(), set()
stop = threading.Event()
bus.subscribe(topic, lambda message: handled.update([message.id]), group="parents", concurrency=2)
bus.open(timeout=20.0)


def publish(number):
    while not stop.wait(0.0005):
        published.add(bus.publish(topic, b"parent's").id)
        id = f"{number}-{len(published)}-{time.monotonic()}"
        bus.publish_nowait(topic, b"parent's", id=id)
        published.add(id)


def sockets():
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if link.startswith("socket:"):
            found.add(link)
    return found


def child(number, theirs, pipe):
    ids = [bus.publish(topic, b"child's").id for _ in range(3)]
    bus.publish_nowait(topic, b"child's", id=f"last-of-{os.getpid()}")
    used = sockets() & theirs if url.startswith("nats") else ()
    os.write(pipe, json.dumps([*ids, f"last-of-{os.getpid()}", *used]).encode())
    if number % 2:
        bus.close()


publishers = [threading.Thread(target=publish, args=(number,), daemon=True) for number in range(2)]
for thread in publishers:
    thread.start()
wait_until(lambda: len(published) > 10, 20.0)
running, statuses = {}, Counter()


def reap(most):
    while len(running) > most:
        pid = next(iter(running))
        wait_until(lambda: ended(pid), 30.0)
        childrens.update(json.loads(os.read(running.pop(pid), 65536)))


def ended(pid):
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        statuses[os.waitstatus_to_exitcode(status)] += 1
    return done


for number in range(forks):
    time.sleep(chance.uniform(0.0, 0.02))
    reader, writer = os.pipe()
    theirs = sockets()
    pid = os.fork()
    if not pid:
        child(number, theirs, writer)
        sys.exit(0)  # the plain end of a program, with all that is done there
    os.close(writer)
    running[pid] = reader
    reap(3)
reap(0)
stop.set()
for thread in publishers:
    thread.join(10.0)
left = bus.flush(10.0).unanswered
wanted = published | childrens if shared else published
wait_until(lambda: wanted <= set(handled), 30.0)
state = bus.get_connection_state()
print(json.dumps({
    "statuses": statuses,
    "unanswered": left,
    "children's": len(childrens),
    "minted twice": len(published & childrens),
    "handled twice": [id for id, times in handled.items() if times > 1],
    "sockets of the parent": [one for one in childrens if one.startswith("socket:")],
    "connected": state.is_connected,
    "reconnects": state.reconnect_count,
    "closed": bus.close(10.0).unfinished_threads,
}))
"""


def check(url: str, forks: int, shared: bool = True) -> None:
    done = run_script(
        PARENT, url, fresh("forked"), str(forks), str(SEED), "shared" if shared else "", timeout=limit(100.0)
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told == {
        "statuses": {"0": forks},
        "unanswered": 0,
        "children's": 4 * forks,
        "minted twice": 0,
        "handled twice": [],
        "sockets of the parent": [],
        "connected": True,
        "reconnects": 0,
        "closed": [],
    }, done.stderr


@pytest.mark.watchdog(limit(110.0))
def test_children_work_on_memory() -> None:
    """A child has a broker of its own."""
    check(f"memory://{fresh('fork')}", rounds(20, 200), shared=False)


@pytest.mark.nats
@pytest.mark.watchdog(limit(110.0))
@pytest.mark.parametrize("query", ["", "?jetstream=false"], ids=["jetstream", "core"])
def test_children_work_on_nats(nats_server_shared: NatsServer, query: str) -> None:
    check(nats_server_shared.url + query, rounds(16, 200))


@pytest.mark.kafka
@pytest.mark.watchdog(limit(110.0))
def test_children_work_on_kafka(kafka_server_shared: KafkaServer) -> None:
    check(kafka_server_shared.url, rounds(8, 200))
