"""A server in a docker container, where this machine has no other way to run it."""

from __future__ import annotations

import functools
import io
import os
import signal
import socket
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventbus.testing.servers.process import Guardian, ServerFailed, ServerUnavailable

if TYPE_CHECKING:
    from docker.models.containers import Container

#: The folder in the container for the files of :meth:`ContainerHost.put`.
FOLDER = "/eventbus"

_SOCKET = "unix:///var/run/docker.sock"
_PING_TIMEOUT = 3.0
_TIMEOUT = 60
_POLL = 0.02


@functools.lru_cache(maxsize=1)
def docker_reason() -> str:
    """Return why docker does not work here, or nothing."""
    try:
        import docker
        import docker.errors
    except ImportError as exc:
        return f"the SDK is not installed ({exc})"
    reason = _socket_reason(os.environ.get("DOCKER_HOST") or _SOCKET)
    if reason:
        return f"no daemon ({reason})"
    try:
        client = docker.from_env(timeout=_PING_TIMEOUT)
    except docker.errors.DockerException as exc:
        return f"no daemon ({exc})"
    try:
        client.ping()
    except (docker.errors.DockerException, OSError) as exc:
        return f"no answer from the daemon ({exc})"
    finally:
        client.close()
    return ""


def _socket_reason(url: str) -> str:
    """Return why nobody listens at a unix socket, or nothing, as for any other kind of address.

    Asked first because the SDK, where nobody does, leaves a socket open.
    """
    kind, _, path = url.partition("://")
    if kind not in ("unix", "http+unix"):
        return ""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PING_TIMEOUT)
        try:
            probe.connect(path)
        except OSError as exc:
            return f"{path}: {exc.strerror or exc}"
    return ""


class ContainerHost:
    """Runs a server in one container, stopped and started again with its files.

    The ports are published on loopback only. The container is removed by :meth:`close`, or soon
    after this process has ended, however it ended.
    """

    def __init__(self, name: str, image: str, client: Any = None) -> None:
        """Connect to the daemon. ``client``: a docker client to use instead of a new one.

        Raises:
            ServerUnavailable: there is no daemon.
        """
        import docker
        import docker.errors

        self._error = docker.errors.APIError
        try:
            self._client = client or docker.from_env(timeout=_TIMEOUT)
        except docker.errors.DockerException as exc:
            raise ServerUnavailable(f"no docker daemon: {exc}") from exc
        self._name = name
        self._image = image
        self._container: Container | None = None
        self._archive = b""
        self._command: Sequence[str] = ()
        self._options: Mapping[str, Any] = {}
        self._old_logs = ""
        self._guardian = Guardian(Path(tempfile.mkdtemp(prefix=f"eventbus-{name}-")), site_packages=True)

    @property
    def pid(self) -> int:
        """Always 0: the process belongs to the daemon."""
        return 0

    @property
    def running(self) -> bool:
        """Whether the container runs, paused or not."""
        return self._state() in ("running", "paused", "restarting")

    def put(
        self,
        files: Mapping[str, bytes],
        command: Sequence[str],
        host: str,
        ports: Sequence[int],
        **options: Any,
    ) -> None:
        """Write files into :data:`FOLDER` of the container, or of the one that :meth:`start` makes.

        That one runs ``command`` and publishes ``ports`` at ``host``; ``options`` are docker's.
        """
        self._archive = _tar(files)
        self._command = command
        self._options = {**options, "ports": {f"{port}/tcp": (host, port) for port in ports}}
        if self._container is not None:
            self._container.put_archive("/", self._archive)

    def start(self) -> None:
        """Start the container, made first where there is none; does not wait for the server.

        Raises:
            ServerUnavailable: the daemon refuses, or has no such image and cannot get it.
        """
        if self.running:
            raise ServerFailed(f"{self._name} is running already")
        try:
            if self._container is None:
                self._container = self._create()
            self._container.start()
        except self._error as exc:
            raise ServerUnavailable(f"docker cannot run {self._image}: {exc}") from exc

    def kill(self) -> None:
        """SIGKILL, paused or not."""
        self._unpause()
        self._tell("SIGKILL")
        self.wait_gone(_TIMEOUT)

    def stop(self, timeout: float) -> None:
        """SIGTERM; SIGKILL after ``timeout`` seconds."""
        if self.running and self._container is not None:
            self._unpause()
            self._container.stop(timeout=round(timeout))

    def freeze(self) -> None:
        """Pause the container."""
        self._running_container().pause()

    def thaw(self) -> None:
        """Unpause the container, if it is paused."""
        self._running_container()
        self._unpause()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        self._tell(number.name)

    def wait_gone(self, timeout: float) -> None:
        """Wait until the server has ended.

        Raises:
            ServerFailed: it still runs after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while self.running:
            if time.monotonic() >= deadline:
                raise ServerFailed(f"{self._name} still runs after {timeout:g} s")
            time.sleep(_POLL)

    def lose_state(self) -> None:
        """Remove the container; the next start makes a new one."""
        if self._container is not None:
            self._old_logs = self.log()
            self._container.remove(force=True, v=True)
            self._container = None

    def log(self) -> str:
        """Everything that the server has written."""
        if self._container is None:
            return self._old_logs
        return self._old_logs + str(self._container.logs().decode(errors="replace"))

    def close(self) -> None:
        """Remove the container."""
        self.lose_state()
        self._guardian.close()
        self._client.close()

    def _create(self) -> Container:
        try:
            self._client.images.get(self._image)
        except self._error:
            self._client.images.pull(self._image)
        container = self._client.containers.create(
            self._image, list(self._command), labels={"eventbus.testing": self._name}, **self._options
        )
        self._guardian.tell(f"container {container.id}")
        container.put_archive("/", self._archive)
        return container

    def _state(self) -> str:
        if self._container is None:
            return ""
        self._container.reload()
        return str(self._container.status)

    def _running_container(self) -> Container:
        if self._container is None or not self.running:
            raise ServerFailed(f"{self._name} is not running")
        return self._container

    def _unpause(self) -> None:
        if self._container is not None and self._state() == "paused":
            self._container.unpause()

    def _tell(self, name: str) -> None:
        if self._container is not None and self.running:
            self._container.kill(signal=name)


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{FOLDER.lstrip('/')}/{name}")
            entry.size = len(data)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
