"""Tools for testing code that must survive its broker: real servers, faults, leaks.

    from eventbus.testing import NatsServer, TcpProxy, wait_until

    with NatsServer() as server, EventBus(server.url) as bus:
        server.kill()                                   # kill -9; same port and store after start()
        wait_until(lambda: not bus.get_health_status().is_healthy)
        server.start()
        wait_until(lambda: bus.get_connection_state().is_connected, 5.0)

- `wait_until`: wait for a condition, with a deadline, instead of sleeping.
- `NatsServer`, `NatsCluster`: real servers on loopback; `kill`, `freeze`, `thaw`, `restart`,
  `lame_duck`, `reload`, `lose_state`. They end with the test, even one ended by ``kill -9``.
  Where there is none: `ServerUnavailable`, with the reason.
- `KafkaServer`, `KafkaCluster`: real Kafka brokers with the same abilities; `proxied=True` puts a
  `TcpProxy` between them and their clients. `MockKafka`: librdkafka's mock of a cluster, for
  answers that nobody can order from a real one.
- `PostgresServer`: a real PostgreSQL, for what happens to handlers when their database goes.
- `TcpProxy`: refused, cut, black-holed, delayed and half-open connections.
- `Certificates`: an authority and certificates for TLS tests.
- `eventbus.testing.conformance`: what every backend must do, as a suite of tests to subclass; `.outages` and
  `.history`, which its fault chapter is made of: a broker's outages by the same names everywhere, and a judge of
  what became of each message.
- `LeakGuard`: fails a test that leaves a thread, a file descriptor or an unhandled error behind.

The pytest plugin (loaded by itself where this library is installed) offers them as the fixtures
`nats_server`, `nats_server_shared`, `nats_cluster`, `kafka_server`, `kafka_server_shared`,
`kafka_cluster`, `mock_kafka`, `postgres_server`, `tcp_proxy`, `certificates` and
`eventbus_leaks`; see `eventbus.testing.plugin`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventbus.testing.certificates import Certificates
    from eventbus.testing.faults import TcpProxy
    from eventbus.testing.leaks import LeakGuard
    from eventbus.testing.servers.kafka import KafkaServer
    from eventbus.testing.servers.kafka_cluster import KafkaCluster
    from eventbus.testing.servers.kafka_mock import MockKafka
    from eventbus.testing.servers.nats import NatsServer
    from eventbus.testing.servers.nats_cluster import NatsCluster
    from eventbus.testing.servers.postgres import PostgresServer
    from eventbus.testing.servers.process import ServerFailed, ServerUnavailable
    from eventbus.testing.wait import wait_until

__all__ = [
    "Certificates",
    "KafkaCluster",
    "KafkaServer",
    "LeakGuard",
    "MockKafka",
    "NatsCluster",
    "NatsServer",
    "PostgresServer",
    "ServerFailed",
    "ServerUnavailable",
    "TcpProxy",
    "wait_until",
]

# Imported when first asked for: the pytest plugin must not slow down every start of pytest.
_HOME = {
    "Certificates": "certificates",
    "KafkaCluster": "servers.kafka_cluster",
    "KafkaServer": "servers.kafka",
    "LeakGuard": "leaks",
    "MockKafka": "servers.kafka_mock",
    "NatsCluster": "servers.nats_cluster",
    "NatsServer": "servers.nats",
    "PostgresServer": "servers.postgres",
    "ServerFailed": "servers.process",
    "ServerUnavailable": "servers.process",
    "TcpProxy": "faults",
    "wait_until": "wait",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
