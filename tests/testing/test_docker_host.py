"""The docker variant, against a stand-in for the daemon."""

from __future__ import annotations

import io
import re
import signal
import tarfile
from typing import Any

import pytest

from eventbus.testing import Certificates, ServerFailed, ServerUnavailable
from eventbus.testing.servers import docker_host, kafka_docker
from eventbus.testing.servers.kafka_hosts import Ports
from eventbus.testing.servers.kafka_options import KafkaOptions, Seat
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


def test_what_is_asked_of_a_server_is_asked_of_its_container(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_kafka_formats_its_store_and_becomes_the_broker(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = FakeDocker()
    host = kafka_docker.DockerHost("box", "apache/kafka:4", client)
    monkeypatch.setattr(host._guardian, "tell", client.calls.append)
    seat = Seat(1, "the-cluster", {1: ("127.0.0.1", 19093)})
    try:
        options = KafkaOptions(tls=certificates, user="alice", password="x", mechanism="SCRAM-SHA-256")
        host.configure(options, seat, Ports(client=19092, inner=19094, advertised=19095))
        host.start()
        assert is_up(host)
        pull, (image, command, ports), told = client.calls
        assert pull == ("pull", "apache/kafka:4")
        assert (image, told) == ("apache/kafka:4", "container fake")
        assert ports == {"19092/tcp": ("127.0.0.1", 19092), "19094/tcp": ("127.0.0.1", 19094)}
        form, run = command[2].split(" && exec ")
        assert command[:2] == ["/bin/sh", "-c"]
        assert "kafka-storage.sh format --ignore-formatted -t the-cluster" in form
        assert "--add-scram 'SCRAM-SHA-256=[name=alice,salt=" in form
        assert run == "/opt/kafka/bin/kafka-server-start.sh /eventbus/server.properties"
        files = files_in(client.made[0])
        lines = files["eventbus/server.properties"].splitlines()
        assert "listeners=CLIENT://0.0.0.0:19092,INNER://0.0.0.0:19094,CONTROLLER://127.0.0.1:19093" in lines
        assert "advertised.listeners=CLIENT://127.0.0.1:19095,INNER://127.0.0.1:19094" in lines
        assert "listener.name.client.ssl.keystore.location=/eventbus/keystore.pem" in lines
        assert certificates.server_cert.read_text() in files["eventbus/keystore.pem"]
    finally:
        host.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("unix:///no/such/docker.sock", r"no daemon \(/no/such/docker.sock: No such file or directory\)"),
        ("tcp://127.0.0.1:9", r"no (daemon|answer from the daemon) \(.*refused"),
    ],
)
def test_a_daemon_that_is_away_is_a_reason(monkeypatch: pytest.MonkeyPatch, url: str, reason: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", url)
    docker_host.docker_reason.cache_clear()
    try:
        found = docker_host.docker_reason()
    finally:
        docker_host.docker_reason.cache_clear()
    assert re.match(reason, found, re.DOTALL), found
