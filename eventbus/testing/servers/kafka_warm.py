"""What lets Kafka start in half the time: made once for each Java and set of jars, and kept."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from eventbus.testing.ports import free_port, release_port
from eventbus.testing.servers.kafka_hosts import LocalHost, Ports
from eventbus.testing.servers.kafka_jars import cache_directory, locked
from eventbus.testing.servers.kafka_java import Java
from eventbus.testing.servers.kafka_options import HOST, KafkaOptions, Seat, new_cluster_id
from eventbus.testing.servers.kafka_wire import read_cluster
from eventbus.testing.servers.process import ServerFailed, ServerUnavailable, wait_ready

_ARCHIVE = "classes.jsa"
_FIRST_RECORDS = "bootstrap.checkpoint"
_TIMEOUT = 60.0
_VERSION_TIMEOUT = 20.0


@functools.lru_cache(maxsize=8)
def warmed(java: Java) -> Java:
    """Return ``java`` with an archive of Kafka's classes and the first records of a store.

    Where there are none in the cache a broker is started and stopped to make them, some 6 s; one
    process does so, others wait. Where that does not work ``java`` is returned as it is.
    """
    with contextlib.suppress(ServerFailed, ServerUnavailable, OSError, subprocess.SubprocessError):
        kept = cache_directory() / f"warm-{_fingerprint(java)}"
        if not kept.is_dir():
            with locked(cache_directory(), time.monotonic() + _TIMEOUT):
                if not kept.is_dir():  # else another process has just made it
                    _make(java, kept)
        records = (kept / _FIRST_RECORDS).read_bytes()
        return replace(java, archive=kept / _ARCHIVE, first_records=records)
    return java


def _fingerprint(java: Java) -> str:
    """Return what changes whenever an archive would no longer suit."""
    command = shutil.which(java.command) or java.command
    said = subprocess.run(
        [command, "-Xshare:auto", "-XX:+UseSerialGC", "-Xinternalversion"],
        check=True,
        capture_output=True,
        timeout=_VERSION_TIMEOUT,
        stdin=subprocess.DEVNULL,
    )
    parts = [str(Path(command).resolve()), said.stdout.decode(errors="replace")]
    for jar in java.class_path:
        about = jar.stat()
        parts.append(f"{jar} {about.st_size} {about.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _make(java: Java, kept: Path) -> None:
    for left in kept.parent.glob("warming-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix="warming-", dir=kept.parent))
    try:
        records = _run_once(replace(java, archive_to=work / _ARCHIVE))
        (work / _FIRST_RECORDS).write_bytes(records)
        if not (work / _ARCHIVE).is_file():
            raise ServerFailed(f"java wrote no {_ARCHIVE}")
        work.chmod(0o755)
        work.rename(kept)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run_once(java: Java) -> bytes:
    """Start a broker and stop it; return the first records of its store."""
    ports = [free_port(HOST) for _ in range(3)]
    client, inner, controller = ports
    host = LocalHost("kafka-warm", java)
    try:
        seat = Seat(1, new_cluster_id(), {1: (HOST, controller)})
        host.configure(KafkaOptions(), seat, Ports(client, inner, client))
        host.start()

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return bool(read_cluster((HOST, inner), 1.0).brokers)
            return False

        wait_ready("a broker to learn from", host, answers, _TIMEOUT)
        records = host.first_records()
        host.stop(_TIMEOUT)
        return records
    finally:
        host.close()
        for port in ports:
            release_port(port)
