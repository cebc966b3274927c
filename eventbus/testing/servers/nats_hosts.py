"""How one NATS server is run: as a child process, or in a docker container."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Protocol

from eventbus.testing.ports import bracketed
from eventbus.testing.servers.nats_options import (
    Layout,
    NatsOptions,
    local_certificates,
    render,
)
from eventbus.testing.servers.process import Host, ManagedProcess


class NatsHost(Host, Protocol):
    """Runs one server; :class:`LocalHost` says what each method promises."""

    def configure(self, options: NatsOptions, port: int, monitor_port: int) -> None: ...
    def signal(self, number: signal.Signals) -> None: ...
    def wait_gone(self, timeout: float) -> None: ...
    def lose_state(self) -> None: ...


class LocalHost(ManagedProcess):
    """Runs a nats-server binary as a child."""

    def __init__(self, name: str, binary: str, store_dir: Path | None) -> None:
        """Prepare the directory. ``store_dir``: keep the store there, and beyond :meth:`close`."""
        super().__init__(name)
        self._binary = binary
        self._config = self.directory / "nats.conf"
        self._store = store_dir or self.directory / "store"

    def configure(self, options: NatsOptions, port: int, monitor_port: int) -> None:
        """Write the configuration file; the server reads it at its start or at SIGHUP."""
        host = bracketed(options.host)
        layout = Layout(
            name=self.name,
            listen=f"{host}:{port}",
            monitor=f"{host}:{monitor_port}",
            store=str(self._store.absolute()),
            certificates=local_certificates(options.tls),
        )
        self._config.write_text(render(options, layout))

    def start(self) -> None:
        """Start the server; does not wait for it."""
        self.run([self._binary, "-c", self._config])

    def lose_state(self) -> None:
        """Delete everything in the store."""
        for entry in self._store.glob("*"):
            shutil.rmtree(entry)
