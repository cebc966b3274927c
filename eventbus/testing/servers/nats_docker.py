"""A NATS server in a docker container, where there is no nats-server binary."""

from __future__ import annotations

import io
import signal
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventbus.testing.servers.nats_options import Layout, NatsOptions, certificate_files, render
from eventbus.testing.servers.process import Guardian, ServerFailed, ServerUnavailable

if TYPE_CHECKING:
    from docker.models.containers import Container

_TIMEOUT = 60
_CONFIG = "/eventbus/nats.conf"
_POLL = 0.02


class DockerHost:
    """Runs a server in one container, stopped and started again with its files.

    The port is published on loopback only. The container is removed by :meth:`close`, or soon
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
        self._endpoint = ("", 0, 0)
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

    def configure(self, options: NatsOptions, port: int, monitor_port: int) -> None:
        """Write configuration and certificates into the container (a new one at :meth:`start`)."""
        files = {Path(path.name): path.read_bytes() for path in _files(options).values()}
        layout = Layout(
            name=self._name,
            listen=f"0.0.0.0:{port}",
            monitor=f"0.0.0.0:{monitor_port}",
            store="/eventbus/store",
            certificates={key: f"/eventbus/{path.name}" for key, path in _files(options).items()},
        )
        files[Path("nats.conf")] = render(options, layout).encode()
        self._archive = _tar(files)
        self._endpoint = (options.host, port, monitor_port)
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
        host, *ports = self._endpoint
        try:
            self._client.images.get(self._image)
        except self._error:
            self._client.images.pull(self._image)
        container = self._client.containers.create(
            self._image,
            ["-c", _CONFIG],
            ports={f"{port}/tcp": (host, port) for port in ports},
            labels={"eventbus.testing": self._name},
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


def _files(options: NatsOptions) -> dict[str, Path]:
    return certificate_files(options.tls)


def _tar(files: dict[Path, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"eventbus/{name}")
            entry.size = len(data)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
