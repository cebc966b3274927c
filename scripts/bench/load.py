"""The load that both sides get: written to a plain socket, faster than any of them can read."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

from scripts.bench.raw import RawNats
from scripts.bench.worker import Job, Verb


def blast(job: Job) -> dict[str, Any]:
    """Publish everything as fast as the server takes it."""
    with RawNats((job.host, job.port)) as raw:
        start = time.monotonic()
        raw.blast(job.topic, job.payload, job.count)
        return {"start": start, "seconds": time.monotonic() - start}


def pump(job: Job) -> dict[str, Any]:
    """A message every millisecond until the parent ends; back 2 ms after the server is. For the soak.

    The payload: `time.monotonic()` of the server's INFO on this link, and of the message.
    """
    parent = os.getppid()
    while os.getppid() == parent:
        with suppress(OSError, RuntimeError), RawNats((job.host, job.port), 1.0) as raw:
            while os.getppid() == parent:
                payload = f"{raw.answered} {time.monotonic()}"
                raw.send(f"PUB {job.topic} {len(payload)}\r\n{payload}\r\n".encode())
                time.sleep(0.001)
        time.sleep(0.002)
    return {}


VERBS: dict[str, Verb] = {"blast": blast, "pump": pump}
