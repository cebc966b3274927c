"""The load that both sides get: written to a plain socket, faster than any of them can read."""

from __future__ import annotations

import time
from typing import Any

from scripts.bench.raw import RawNats
from scripts.bench.worker import Job, Verb


def blast(job: Job) -> dict[str, Any]:
    """Publish everything as fast as the server takes it."""
    with RawNats((job.host, job.port)) as raw:
        start = time.monotonic()
        raw.blast(job.topic, job.payload, job.count)
        return {"start": start, "seconds": time.monotonic() - start}


VERBS: dict[str, Verb] = {"blast": blast}
