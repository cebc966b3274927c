"""Apache Kafka as jars: fetched once from Maven Central into the user's cache."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from eventbus.testing.servers.process import ServerUnavailable

VERSION = "4.2.0"
#: Names a folder with the jars of Kafka and of all that it needs; nothing is fetched then.
ENVIRONMENT = "EVENTBUS_KAFKA_JARS"

_MAIN_JAR = "kafka_2.13-*.jar"
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
_FETCH_TIMEOUT = 300.0
_LOCK_INTERVAL = 0.05
_TAIL = 2000
# Kafka's own pom names no binding for slf4j: without one a broker that dies at its start says nothing.
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>eventbus.testing</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""


def cache_directory() -> Path:
    """Return the folder for what is fetched and made once; it may not be there yet."""
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    root = Path(base) if base else Path.home() / ".cache"
    return root / "jxt-eventbus" / f"kafka-{VERSION}"


def jar_directory() -> Path:
    """Return where the jars are, or will be: ``EVENTBUS_KAFKA_JARS``, else in the cache."""
    given = os.environ.get(ENVIRONMENT, "").strip()
    return Path(given).absolute() if given else cache_directory() / "jars"


def jars_reason() -> str:
    """Return why there are no jars and none can be fetched, or nothing. Fetches nothing."""
    directory = jar_directory()
    if has_jars(directory):
        return ""
    if os.environ.get(ENVIRONMENT, "").strip():
        return f"{ENVIRONMENT} names a folder without {_MAIN_JAR}: {directory}"
    if shutil.which("mvn") is None:
        return f"no jars in {directory} (nor {ENVIRONMENT}), and no mvn to fetch them with"
    return ""


def has_jars(directory: Path) -> bool:
    """Whether Kafka's own jar is there."""
    return next(directory.glob(_MAIN_JAR), None) is not None


def get_jars(timeout: float = _FETCH_TIMEOUT) -> Path:
    """Return the folder with the jars, fetched first where they are missing (43 MB).

    Processes that fetch at the same time wait for the first; a folder is there whole or not.

    Raises:
        ServerUnavailable: there are none and they cannot be fetched within ``timeout`` seconds;
            holds Maven's last lines.
    """
    directory, reason = jar_directory(), jars_reason()
    if reason:
        raise ServerUnavailable(f"no Kafka: {reason}")
    if has_jars(directory):
        return directory
    deadline = time.monotonic() + timeout
    with locked(cache_directory(), deadline):
        if not has_jars(directory):  # else another process has just fetched them
            _fetch(directory, deadline)
    return directory


@contextlib.contextmanager
def locked(directory: Path, deadline: float) -> Iterator[None]:
    """Make ``directory`` and hold its lock; it is let go of by a process that dies, too.

    Raises:
        ServerUnavailable: another process holds it until ``deadline`` (``time.monotonic()``),
            or the directory cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("ab")
    except OSError as exc:
        raise ServerUnavailable(f"no cache for Kafka: {exc}") from exc
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise ServerUnavailable(f"another process holds {lock.name} for too long") from None
                time.sleep(_LOCK_INTERVAL)
        yield


def _fetch(directory: Path, deadline: float) -> None:
    mvn = shutil.which("mvn")
    assert mvn is not None
    for left in directory.parent.glob("fetching-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix="fetching-", dir=directory.parent))
    try:
        (work / "pom.xml").write_text(_POM)
        command: list[str | Path] = [mvn, "-B", "-f", work / "pom.xml", _PLUGIN, f"-DoutputDirectory={work / 'jars'}"]
        _run_maven(command, max(1.0, deadline - time.monotonic()))
        if not has_jars(work / "jars"):
            raise ServerUnavailable(f"mvn ended well but brought no {_MAIN_JAR}")
        (work / "jars").rename(directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run_maven(command: list[str | Path], timeout: float) -> None:
    try:
        answer = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as exc:
        said = exc.output.decode(errors="replace") if isinstance(exc.output, bytes) else exc.output or ""
        raise ServerUnavailable(f"mvn did not end within {timeout:.0f} s: {said[-_TAIL:]}") from exc
    except OSError as exc:
        raise ServerUnavailable(f"mvn does not run: {exc}") from exc
    if answer.returncode:
        raise ServerUnavailable(f"mvn could not fetch Kafka {VERSION}: {answer.stdout[-_TAIL:].strip()}")
