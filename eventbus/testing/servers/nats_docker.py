"""A NATS server in a docker container, where there is no nats-server binary."""

from __future__ import annotations

from eventbus.testing.servers.docker_host import FOLDER, ContainerHost
from eventbus.testing.servers.nats_options import Layout, NatsOptions, certificate_files, render

_CONFIG = "nats.conf"


class DockerHost(ContainerHost):
    """Runs a nats-server in one container."""

    def configure(self, options: NatsOptions, port: int, monitor_port: int) -> None:
        """Write configuration and certificates into the container (a new one at :meth:`start`)."""
        paths = certificate_files(options.tls)
        layout = Layout(
            name=self._name,
            listen=f"0.0.0.0:{port}",
            monitor=f"0.0.0.0:{monitor_port}",
            store=f"{FOLDER}/store",
            certificates={key: f"{FOLDER}/{path.name}" for key, path in paths.items()},
        )
        files = {path.name: path.read_bytes() for path in paths.values()}
        files[_CONFIG] = render(options, layout).encode()
        self.put(files, ["-c", f"{FOLDER}/{_CONFIG}"], options.host, (port, monitor_port))
