"""Where a Kafka broker comes from on this machine."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from eventbus.testing.servers.docker_host import docker_reason as _docker_reason
from eventbus.testing.servers.kafka_jars import VERSION, jar_directory, jars_reason
from eventbus.testing.servers.process import ServerUnavailable
from eventbus.testing.servers.source import Source, named_in

#: Names a broker that runs already, without security: ``host:port``.
ENVIRONMENT = "EVENTBUS_TEST_KAFKA"
#: Names another docker image than :data:`DOCKER_IMAGE`.
IMAGE_ENVIRONMENT = "EVENTBUS_TEST_KAFKA_IMAGE"
DOCKER_IMAGE = f"apache/kafka:{VERSION}"

_OLDEST_JAVA = 17
_VERSION_TIMEOUT = 20.0


@dataclass(frozen=True)
class KafkaSource(Source):
    """``host:port`` ("external"), a docker image ("docker"), or a folder of jars, to be fetched perhaps ("java").

    java, java_version: the ``java`` command, and its version.
    """

    FOUND: ClassVar[Mapping[str, str]] = {"external": "the broker", "docker": "docker image", "java": "Apache Kafka"}

    java: str = ""
    java_version: str = ""

    def _found(self) -> str:
        return super()._found() + (f" with Java {self.java_version}" if self.java else "")


def find_kafka(*, external: bool = True, docker: bool = True) -> KafkaSource:
    """Return the first source that works, and why not those before it.

    In this order: ``EVENTBUS_TEST_KAFKA``, docker (the image ``EVENTBUS_TEST_KAFKA_IMAGE``, else
    :data:`DOCKER_IMAGE`), Apache Kafka from jars with Java 17 or later (``JAVA_HOME``, else PATH).
    ``external=False`` leaves the first out: what it names cannot be killed. ``docker=False``
    leaves the second out: it makes no clusters. The docker daemon is pinged and ``java`` is asked
    for its version; nothing is started or fetched.

    Raises:
        ServerUnavailable: none works; says why for each.
    """
    passed: list[str] = []
    if external:
        address = named_in(ENVIRONMENT)
        if address:
            return KafkaSource("external", address)
        passed.append(f"{ENVIRONMENT} is not set")
    if docker:
        reason = _docker_reason()
        if not reason:
            image = named_in(IMAGE_ENVIRONMENT) or DOCKER_IMAGE
            return KafkaSource("docker", image, passed_over=tuple(passed))
        passed.append(f"docker: {reason}")
    java, version, reason = _find_java()
    reason = reason or jars_reason()
    if not reason:
        return KafkaSource("java", str(jar_directory()), _jar_version(), tuple(passed), java, version)
    passed.append(f"Java: {reason}")
    raise ServerUnavailable(f"no Kafka broker to test with: {'; '.join(passed)}")


def _find_java() -> tuple[str, str, str]:
    """Return the command and its version, or the reason why there is none that will do."""
    home = os.environ.get("JAVA_HOME", "").strip()
    path = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if path is None:
        return "", "", f"no java (JAVA_HOME is not set, and none on PATH); {_OLDEST_JAVA} or later is needed"
    version, reason = _java_version(path)
    return path, version, reason


@functools.lru_cache(maxsize=8)
def _java_version(path: str) -> tuple[str, str]:
    """Return the version, or the reason why it does not do."""
    try:
        answer = subprocess.run(
            [path, "-version"],
            check=False,
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        return "", f"{path} does not run ({exc})"
    said = answer.stderr or answer.stdout
    found = re.search(r'version "((?:1\.)?(\d+)[^"]*)"', said)
    if answer.returncode or not found:
        return "", f"{path} does not run ({said.strip()[:200]})"
    if int(found[2]) < _OLDEST_JAVA:
        return "", f"{path} is Java {found[1]}; {_OLDEST_JAVA} or later is needed"
    return found[1], ""


def _jar_version() -> str:
    for jar in jar_directory().glob("kafka_2.13-*.jar"):
        return jar.stem.removeprefix("kafka_2.13-")
    return VERSION
