"""Where it is measured: one real server, every measurement in a fresh process, nothing left behind."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from eventbus.testing import NatsServer
from scripts.bench.raw import RawNats, fill, make_stream, stored
from scripts.bench.worker import WARM_UPS

LIMIT = 150.0
"""Seconds after which a worker is taken for stuck."""

_CONFIG = "max_pending: 1GB\nwrite_deadline: 60s"
"""A reader that is slower than the load is waited for, on both sides."""

_IMPORT = """
import sys, time
start = time.perf_counter()
import eventbus
seconds = time.perf_counter() - start
clients = [name for name in ("pynats2", "nats", "confluent_kafka", "kafka", "docker") if name in sys.modules]
import json
print(json.dumps({"seconds": seconds, "clients": clients}))
"""

_topics = itertools.count(1)


class MeasurementFailed(Exception):
    """A worker did not do what it should; the text holds what it wrote."""


class Worker:
    """A running `scripts.bench.worker`; the end of the block ends it."""

    def __init__(self, side: str, verb: str, job: Mapping[str, Any]) -> None:
        self._what = f"{side} {verb}"
        self._process = _spawn(["-m", "scripts.bench.worker", side, verb, json.dumps(job)])

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def await_ready(self) -> None:
        """Return when it is ready to receive."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self.result()

    def result(self) -> dict[str, Any]:
        """What it measured."""
        try:
            out, errors = self._process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired as error:
            raise MeasurementFailed(f"{self._what}: no result after {LIMIT:g} s") from error
        return _parsed(self._what, out, errors)


class Stage:
    """One nats-server for all its rows. Every method measures once and returns messages per second."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self.cpu: float | None = None
        """Seconds of all processors for one message, in the last measurement that notes it."""
        self.versions = (f"nats-server {server.monitor('varz')['version']}",)

    def publish(self, side: str, verb: str, count: int, size: int, settings: Mapping[str, Any]) -> float:
        """Core NATS: a worker publishes; the server's own counter says that it got everything."""
        before = self._messages_read()
        result = self._work(side, verb, self._job("pub", count, size, settings))
        if (read := self._messages_read() - before - WARM_UPS) < count:
            raise MeasurementFailed(f"{side} {verb}: the server read {read} of {count} messages")
        return count / float(result["seconds"])

    def deliver(self, side: str, verb: str, count: int, size: int, settings: Mapping[str, Any]) -> float:
        """Core NATS: from the first byte of the same plain load to the last message in the handler."""
        return self._through(("load", "blast"), side, verb, self._job("sub", count, size, settings))

    def end_to_end(self, side: str, verb: str, count: int, size: int, settings: Mapping[str, Any]) -> float:
        """Core NATS: as `deliver`, the load published by the same library in another process."""
        return self._through((side, "core_publish"), side, verb, self._job("e2e", count, size, settings))

    def store(self, side: str, verb: str, count: int, size: int, settings: Mapping[str, Any]) -> float:
        """JetStream: a worker publishes into an empty stream, which then holds everything once."""
        job = self._job("store", count, size, settings)
        with self._stream(job) as raw:
            result = self._work(side, verb, job)
            if (found := stored(raw, _stream_of(job))) != count:
                raise MeasurementFailed(f"{side} {verb}: {found} messages stored instead of {count}")
        return count / float(result["seconds"])

    def consume(self, side: str, verb: str, count: int, size: int, settings: Mapping[str, Any]) -> float:
        """JetStream: a worker handles and acknowledges a filled stream; it checks the ack floor itself."""
        job = self._job("take", count, size, settings)
        with self._stream(job) as raw:
            fill(raw, job["topic"], b"x" * size, count)
            result = self._work(side, verb, job)
        self.cpu = float(result["cpu"]) / count if "cpu" in result else None
        return count / float(result["seconds"])

    def handle(self, side: str, verb: str, count: int, size: int, settings: Mapping[str, Any]) -> float:
        """JetStream: a worker fills a stream, and handles it."""
        job = self._job("lanes", count, size, settings)
        with self._stream(job):
            return count / float(self._work(side, verb, job)["seconds"])

    def alone(self, side: str, verb: str, count: int, size: int, settings: Mapping[str, Any]) -> float:
        """Without a server."""
        return count / float(self._work(side, verb, self._job("alone", count, size, settings))["seconds"])

    def _through(self, publisher: tuple[str, str], side: str, verb: str, job: dict[str, Any]) -> float:
        with Worker(side, verb, job) as subscriber:
            subscriber.await_ready()
            with Worker(*publisher, job) as source:
                start = float(source.result()["start"])
            last = float(subscriber.result()["last"])
        return float(job["count"]) / (last - start)

    def _work(self, side: str, verb: str, job: Mapping[str, Any]) -> dict[str, Any]:
        with Worker(side, verb, job) as worker:
            return worker.result()

    def _job(self, kind: str, count: int, size: int, settings: Mapping[str, Any]) -> dict[str, Any]:
        host, port = self._server.address
        topic = f"{kind}{next(_topics)}.bench"
        return {"host": host, "port": port, "topic": topic, "count": count, "size": size, "settings": dict(settings)}

    @contextmanager
    def _stream(self, job: Mapping[str, Any]) -> Iterator[RawNats]:
        with RawNats(self._server.address) as raw:
            make_stream(raw, _stream_of(job))
            try:
                yield raw
            finally:
                raw.api(f"STREAM.DELETE.{_stream_of(job)}")

    def _messages_read(self) -> int:
        return int(self._server.monitor("varz")["in_msgs"])


@contextmanager
def staged() -> Iterator[Stage]:
    """A stage with its server."""
    with NatsServer(config=_CONFIG) as server:
        yield Stage(server)


def import_once() -> tuple[float, list[str]]:
    """The seconds of `import eventbus` in a fresh process, and the client libraries that came with it."""
    with _spawn(["-c", _IMPORT]) as process:
        out, errors = process.communicate(timeout=LIMIT)
    result = _parsed("import eventbus", out, errors)
    return float(result["seconds"]), list(result["clients"])


def _spawn(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _parsed(what: str, out: str, errors: str) -> dict[str, Any]:
    try:
        return dict(json.loads(out.splitlines()[-1]))
    except (IndexError, ValueError):
        raise MeasurementFailed(f"{what}: {(errors or out).strip()[-1500:] or 'it wrote nothing'}") from None


def _stream_of(job: Mapping[str, Any]) -> str:
    return str(job["topic"]).partition(".")[0]
