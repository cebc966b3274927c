"""The docker variant, against a stand-in for the daemon."""

from __future__ import annotations

import io
import signal
import tarfile
from typing import Any

import pytest

from eventbus.testing import Certificates, ServerFailed, ServerUnavailable
from eventbus.testing.servers.nats_docker import DockerHost
from eventbus.testing.servers.nats_options import NatsOptions

docker_errors = pytest.importorskip("docker.errors")


class FakeContainer:
    """Does to its status what docker does."""

    def __init__(self, calls: list[Any]) -> None:
        self.id = "fake"
        self.status = "created"
        self.calls = calls
        self.archive = b""

    def reload(self) -> None:
        """Nothing to refresh."""

    def start(self) -> None:
        self.status = "running"

    def pause(self) -> None:
        self.status = "paused"

    def unpause(self) -> None:
        self.status = "running"

    def stop(self, timeout: int) -> None:
        self.calls.append(("stop", timeout))
        self.status = "exited"

    def kill(self, signal: str) -> None:
        assert self.status == "running", "docker cannot signal what is paused"
        self.calls.append(signal)
        if signal == "SIGKILL":
            self.status = "exited"

    def put_archive(self, path: str, data: bytes) -> None:
        assert path == "/"
        self.archive = data

    def logs(self) -> bytes:
        return b"Server is ready\n"

    def remove(self, force: bool, v: bool) -> None:
        assert force
        assert v
        self.calls.append("remove")


class FakeDocker:
    """As much of a docker client as is used."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.made: list[FakeContainer] = []
        self.images = self
        self.containers = self

    def get(self, image: str) -> None:
        raise docker_errors.ImageNotFound(image)

    def pull(self, image: str) -> None:
        self.calls.append(("pull", image))

    def create(self, image: str, command: list[str], **options: Any) -> FakeContainer:
        self.calls.append((image, command, options["ports"]))
        self.made.append(FakeContainer(self.calls))
        return self.made[-1]

    def close(self) -> None:
        self.calls.append("close")


def files_in(container: FakeContainer) -> dict[str, str]:
    """Return the files that were put into the container."""
    with tarfile.open(fileobj=io.BytesIO(container.archive)) as archive:
        return {
            entry.name: file.read().decode() for entry in archive if (file := archive.extractfile(entry)) is not None
        }


def is_up(host: DockerHost) -> bool:
    """Whether its container runs."""
    return host.running


def test_its_life(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeDocker()
    host = DockerHost("box", "nats:2", client)
    # The real guardian would look for a daemon to remove the container from.
    told: list[str] = []
    monkeypatch.setattr(host._guardian, "tell", told.append)
    try:
        host.configure(NatsOptions(tls=certificates), 14222, 18222)
        host.start()
        assert told == ["container fake"]
        published = {"14222/tcp": ("127.0.0.1", 14222), "18222/tcp": ("127.0.0.1", 18222)}
        assert client.calls == [
            ("pull", "nats:2"),
            ("nats:2", ["-c", "/eventbus/nats.conf"], published),
        ]
        files = files_in(client.made[0])
        assert 'cert_file: "/eventbus/server.pem"' in files["eventbus/nats.conf"]
        assert files["eventbus/server.pem"] == certificates.server_cert.read_text()
        with pytest.raises(ServerFailed, match="running already"):
            host.start()
        host.freeze()
        assert is_up(host)
        host.thaw()
        host.freeze()
        host.kill()
        assert not is_up(host)
        host.start()
        host.configure(NatsOptions(password="x", user="y"), 14222, 18222)
        assert 'password: "x"' in files_in(client.made[0])["eventbus/nats.conf"]
        host.signal(signal.SIGHUP)
        host.stop(5.0)
        assert client.calls[2:] == ["SIGKILL", "SIGHUP", ("stop", 5)]
        with pytest.raises(ServerFailed, match="not running"):
            host.freeze()
        host.lose_state()
        host.start()
        assert len(client.made) == 2
        assert host.log() == "Server is ready\n" * 2
    finally:
        host.close()
    assert client.calls[-2:] == ["remove", "close"]
    assert host.pid == 0


def test_a_daemon_that_refuses_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeDocker()
    host = DockerHost("box", "nats:2", client)

    def refuse(image: str) -> None:
        raise docker_errors.APIError("no network")

    monkeypatch.setattr(client, "pull", refuse)
    host.configure(NatsOptions(), 14222, 18222)
    with pytest.raises(ServerUnavailable, match=r"cannot run nats:2.*no network"):
        host.start()
    host.close()
