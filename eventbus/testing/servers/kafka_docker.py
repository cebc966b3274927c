"""A Kafka broker in a docker container, where docker works."""

from __future__ import annotations

import shlex

from eventbus.testing.servers.docker_host import FOLDER, ContainerHost
from eventbus.testing.servers.kafka_hosts import Ports
from eventbus.testing.servers.kafka_options import (
    HOST,
    KEY_STORE,
    TRUST_STORE,
    KafkaOptions,
    Layout,
    Seat,
    certificate_files,
    render,
)

_PROPERTIES = "server.properties"
# The image's user can write there.
_STORE = "/tmp/eventbus-kafka"
_PROGRAMS = "/opt/kafka/bin"
_HEAP = "-Xmx384m -Xms64m"


class DockerHost(ContainerHost):
    """Runs the broker of the image ``apache/kafka`` in one container."""

    def configure(self, options: KafkaOptions, seat: Seat, ports: Ports) -> None:
        """Write properties and certificates into the container (a new one at :meth:`start`)."""
        layout = Layout(
            seat=seat,
            bind="0.0.0.0",
            client_port=ports.client,
            inner_port=ports.inner,
            advertised_port=ports.advertised,
            store=_STORE,
            key_store=f"{FOLDER}/{KEY_STORE}",
            trust_store=f"{FOLDER}/{TRUST_STORE}",
        )
        files = {**certificate_files(options.tls), _PROPERTIES: render(options, layout).encode()}
        self.put(
            files,
            ["/bin/sh", "-c", _script(seat.cluster_id, options.scram_credential())],
            HOST,
            (ports.client, ports.inner),
            environment={"KAFKA_HEAP_OPTS": _HEAP},
        )


def _script(cluster_id: str, credential: str) -> str:
    """Return what formats the store unless that is done, and then becomes the broker."""
    properties = f"{FOLDER}/{_PROPERTIES}"
    users = ["--add-scram", credential] if credential else []
    form = [f"{_PROGRAMS}/kafka-storage.sh", "format", "--ignore-formatted", "-t", cluster_id, "-c", properties, *users]
    run = [f"{_PROGRAMS}/kafka-server-start.sh", properties]
    return f"{shlex.join(form)} && exec {shlex.join(run)}"
