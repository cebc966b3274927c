"""How one Kafka broker is run: as a child process here, in a docker container in `kafka_docker`."""

from __future__ import annotations

import shlex
import shutil
import signal
from dataclasses import dataclass
from typing import Protocol

from eventbus.testing.servers.kafka_java import Java
from eventbus.testing.servers.kafka_options import (
    HOST,
    KEY_STORE,
    TRUST_STORE,
    KafkaOptions,
    Layout,
    Seat,
    certificate_files,
    new_cluster_id,
    render,
)
from eventbus.testing.servers.process import Host, ManagedProcess

_PROPERTIES = "server.properties"
_STORE = "store"
_IDENTITY = "meta.properties"
_FIRST_RECORDS = "bootstrap.checkpoint"


@dataclass(frozen=True)
class Ports:
    """Where it listens for clients and for brokers, and where clients are sent to."""

    client: int
    inner: int
    advertised: int


class KafkaHost(Host, Protocol):
    """Runs one broker; :class:`LocalHost` says what each method promises."""

    def configure(self, options: KafkaOptions, seat: Seat, ports: Ports) -> None: ...
    def signal(self, number: signal.Signals) -> None: ...
    def wait_gone(self, timeout: float) -> None: ...
    def lose_state(self) -> None: ...


class LocalHost(ManagedProcess):
    """Runs Apache Kafka from its jars as a child."""

    def __init__(self, name: str, java: Java) -> None:
        """Prepare the directory."""
        super().__init__(name)
        self._java = java
        self._properties = self.directory / _PROPERTIES
        self._store = self.directory / _STORE
        self._credential = ""
        self._seat: Seat | None = None

    def configure(self, options: KafkaOptions, seat: Seat, ports: Ports) -> None:
        """Write the properties file; the broker reads it at its start."""
        layout = Layout(
            seat=seat,
            bind=HOST,
            client_port=ports.client,
            inner_port=ports.inner,
            advertised_port=ports.advertised,
            store=str(self._store),
            key_store=str(self.directory / KEY_STORE),
            trust_store=str(self.directory / TRUST_STORE),
        )
        for name, data in certificate_files(options.tls).items():
            (self.directory / name).write_bytes(data)
        self._properties.write_text(render(options, layout))
        self._credential = options.scram_credential()
        self._seat = seat

    def start(self) -> None:
        """Start the broker, its store made first where there is none; does not wait for it."""
        assert self._seat is not None
        run = self._java.broker(self._properties, self.directory)
        if not (self._store / _IDENTITY).exists() and (self._credential or not self._java.first_records):
            form = self._java.format(self._properties, self.directory, self._seat.cluster_id, self._credential)
            self.run(["/bin/sh", "-c", f"{shlex.join(form)} && exec {shlex.join(run)}"])
            return
        if not (self._store / _IDENTITY).exists():
            self._make_store(self._seat)
        self.run(run)

    def first_records(self) -> bytes:
        """Return the records that a store begins with, once it is made."""
        return (self._store / _FIRST_RECORDS).read_bytes()

    def lose_state(self) -> None:
        """Delete the store."""
        if self._store.exists():
            shutil.rmtree(self._store)

    def _make_store(self, seat: Seat) -> None:
        """Do what Kafka's own formatting does, without half a second of Java."""
        self._store.mkdir()
        (self._store / _FIRST_RECORDS).write_bytes(self._java.first_records)
        identity = {
            "version": "1",
            "cluster.id": seat.cluster_id,
            "node.id": str(seat.node_id),
            "directory.id": new_cluster_id(),
        }
        text = "".join(f"{key}={value}\n" for key, value in identity.items())
        (self._store / _IDENTITY).write_text(text)
