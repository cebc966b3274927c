"""One measurement in a process of its own: `python -m scripts.bench.worker SIDE VERB JSON`.

SIDE: a module of this package with `VERBS`, such as `peer` or `kafka_ours`. It prints one JSON object:
`seconds` for `count` messages, or what the verb says. A worker that receives prints the line "ready" first.
A measurement that did not do its whole work fails.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

from attrs import field, frozen

from scripts.bench.raw import RawNats, only_consumer
from scripts.bench.sampling import begin, sampled

LIMIT = 120.0
"""Seconds after which a measurement has failed."""

WARM_UP, WARM_UPS = "warm.up", 20_000
"""Where each core publisher sends so many messages before it is timed."""


@frozen(kw_only=True)
class Job:
    """What to do. `settings`: how the load is made and the peer is to be tuned; ours runs on its defaults."""

    host: str = ""
    port: int = 0
    topic: str = ""
    count: int = 0
    size: int = 0
    settings: dict[str, Any] = field(factory=dict)

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"nats://{self.host}:{self.port}"

    @property
    def address(self) -> str:
        """The server's host and port, as Kafka's clients want them."""
        return f"{self.host}:{self.port}"

    @property
    def kafka_url(self) -> str:
        """The server's URL, if it is one of Kafka."""
        return f"kafka://{self.address}"

    @property
    def stream(self) -> str:
        """The stream of the topic: its first part."""
        return self.topic.partition(".")[0]

    @property
    def payload(self) -> bytes:
        """What every message carries."""
        return b"x" * self.size

    def expect(self, what: str, found: int) -> None:
        """RuntimeError unless `found` is the count."""
        if found != self.count:
            raise RuntimeError(f"{what}: {found} instead of {self.count}")

    def message_ids(self) -> list[str]:
        """As many ids as messages, as long as those that eventbus makes."""
        origin = f"{os.getpid():016x}"
        return [f"{origin}-{number:012d}" for number in range(self.count)]

    def await_acknowledged(self) -> None:
        """Return when the server says that every message was delivered once and acknowledged."""
        with RawNats((self.host, self.port)) as raw:
            deadline = time.monotonic() + LIMIT
            while (info := only_consumer(raw, self.stream))["ack_floor"]["stream_seq"] != self.count:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"not all was acknowledged: {info}")
                time.sleep(0.001)
        self.expect("deliveries", int(info["delivered"]["consumer_seq"]))


class Counted:
    """Counts what a handler gets, reads each payload, and notes when the last one came."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._sizes: list[int] = []
        self.last = 0.0
        self.complete = threading.Event()
        self.add = self._adder()

    def _adder(self) -> Callable[[bytes], None]:
        """`add(payload)`: one message has arrived. A closure: the counting is timed with what it counts."""
        append, count, expected = self._sizes.append, self._sizes.__len__, self._job.count

        def add(payload: bytes) -> None:
            append(len(payload))
            if count() == expected:
                self.last = time.monotonic()
                self.complete.set()

        return add

    @property
    def count(self) -> int:
        """How many have arrived."""
        return len(self._sizes)

    def check(self) -> None:
        """RuntimeError unless all came, and nothing else."""
        self._job.expect("messages", self.count)
        if sum(self._sizes) != self._job.count * self._job.size:
            raise RuntimeError(f"{sum(self._sizes)} bytes arrived")

    def wait(self) -> None:
        """Wait for the last; RuntimeError if it does not come."""
        self.complete.wait(LIMIT)
        self.check()


class Verb(Protocol):
    """A measurement."""

    def __call__(self, job: Job, /) -> dict[str, Any]:
        """Do it and return the figures."""


def say_ready() -> None:
    """Tell the parent that messages may come."""
    print("ready", flush=True)


@frozen
class Moment:
    """What the clocks show: seconds, and those of all processors for this process."""

    wall: float = field(factory=time.monotonic)
    cpu: float = field(factory=time.process_time)

    def until(self, end: Moment) -> dict[str, float]:
        """From here to another moment, as a result."""
        return {"seconds": end.wall - self.wall, "cpu": end.cpu - self.cpu}


def timed(work: Callable[[], object]) -> dict[str, Any]:
    """The seconds that some work takes, and those of all processors for it. The collector starts from a clean slate."""
    gc.collect()
    begin()
    start = Moment()
    work()
    return {"start": start.wall, **start.until(Moment())}


def main() -> None:
    """Do one job and end at once: how fast a client closes is not measured here."""
    side, verb, text = sys.argv[1:4]
    verbs: dict[str, Verb] = importlib.import_module(f"scripts.bench.{side}").VERBS
    job = Job(**json.loads(text))
    profile = job.settings.get("profile")
    with sampled(Path(profile)) if profile else nullcontext():
        result = verbs[verb](job)
    print(json.dumps(result), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
