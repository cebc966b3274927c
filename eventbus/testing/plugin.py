"""The pytest plugin: real servers, faults and the leak guard as fixtures.

Installing the library installs it; elsewhere ``pytest -p eventbus.testing.plugin``. Nothing in it
acts by itself. Where a server is missing a test skips with the reason (``pytest -ra`` shows it);
where the environment variable ``CI`` is set it fails instead. A line at the end of the run says
which servers the fixtures brought. To guard every test against leaks::

    @pytest.fixture(autouse=True)
    def _no_leaks(eventbus_leaks): ...
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

if TYPE_CHECKING:
    from eventbus.testing.certificates import Certificates
    from eventbus.testing.faults import TcpProxy
    from eventbus.testing.leaks import LeakGuard
    from eventbus.testing.servers.kafka import KafkaServer
    from eventbus.testing.servers.kafka_cluster import KafkaCluster
    from eventbus.testing.servers.kafka_external import ExternalKafka
    from eventbus.testing.servers.kafka_mock import MockKafka
    from eventbus.testing.servers.nats import NatsServer
    from eventbus.testing.servers.nats_cluster import NatsCluster
    from eventbus.testing.servers.nats_external import ExternalNats
    from eventbus.testing.servers.postgres import PostgresServer
    from eventbus.testing.servers.postgres_external import ExternalPostgres


#: Which servers were used, by what they are.
_used = pytest.StashKey[dict[str, str]]()
_REPORT = "eventbus servers"


class _Startable(Protocol):
    def start(self) -> object: ...
    def close(self) -> None: ...


_Server = TypeVar("_Server", bound=_Startable)


@contextlib.contextmanager
def skip_or_fail() -> Iterator[None]:
    """Turn `ServerUnavailable` into a skip, or into a failure where ``CI`` is set."""
    from eventbus.testing.servers.process import ServerUnavailable

    try:
        yield
    except ServerUnavailable as exc:
        if os.environ.get("CI", "").lower() not in ("", "0", "false"):
            pytest.fail(f"CI is set, and {exc}", pytrace=False)
        pytest.skip(str(exc))


@pytest.fixture
def nats_server(request: pytest.FixtureRequest) -> Iterator[NatsServer | ExternalNats]:
    """A NATS server with JetStream, fresh for this test; ``EVENTBUS_TEST_NATS`` if that is set."""
    yield from _started_server(request.config)


@pytest.fixture(scope="session")
def nats_server_shared(request: pytest.FixtureRequest) -> Iterator[NatsServer | ExternalNats]:
    """A NATS server with JetStream for the whole session: fast, so leave it as you found it."""
    yield from _started_server(request.config)


@pytest.fixture
def nats_cluster() -> Iterator[NatsCluster]:
    """Three NATS servers with JetStream, fresh for this test, with a leader."""
    from eventbus.testing.servers.nats_cluster import NatsCluster

    with skip_or_fail():
        cluster = NatsCluster(3).start()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def kafka_server(request: pytest.FixtureRequest) -> Iterator[KafkaServer | ExternalKafka]:
    """A Kafka broker, fresh for this test; ``EVENTBUS_TEST_KAFKA`` if that is set."""
    yield from _started_kafka(request.config)


@pytest.fixture(scope="session")
def kafka_server_shared(request: pytest.FixtureRequest) -> Iterator[KafkaServer | ExternalKafka]:
    """A Kafka broker for the whole session: fast, so leave it as you found it."""
    yield from _started_kafka(request.config)


@pytest.fixture
def kafka_cluster(request: pytest.FixtureRequest) -> Iterator[KafkaCluster]:
    """Three Kafka brokers in one cluster, fresh for this test, that know each other."""
    from eventbus.testing.servers.kafka_cluster import KafkaCluster
    from eventbus.testing.servers.kafka_source import find_kafka

    with skip_or_fail():
        cluster = KafkaCluster(3).start()
        _note(request.config, "Kafka cluster", find_kafka(external=False, docker=False))
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def mock_kafka() -> Iterator[Callable[..., MockKafka]]:
    """``mock_kafka(brokers, proxied=True)`` starts a `MockKafka`, closed after the test."""
    from eventbus.testing.servers.kafka_mock import MockKafka

    with contextlib.ExitStack() as stack:

        def make(brokers: int = 1, **options: Any) -> MockKafka:
            with skip_or_fail():
                return stack.enter_context(MockKafka(brokers, **options))
            raise AssertionError("not reached")

        yield make


@pytest.fixture
def postgres_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer | ExternalPostgres]:
    """A PostgreSQL server, fresh for this test; ``EVENTBUS_TEST_POSTGRES`` if that is set."""
    from eventbus.testing.servers.postgres_external import open_postgres
    from eventbus.testing.servers.postgres_source import find_postgres

    yield from _started(request.config, "PostgreSQL", open_postgres, find_postgres)


@pytest.fixture
def tcp_proxy() -> Iterator[Callable[..., TcpProxy]]:
    """``tcp_proxy(host, port)`` starts a `TcpProxy` to that address, stopped after the test."""
    from eventbus.testing.faults import TcpProxy

    with contextlib.ExitStack() as stack:

        def make(target_host: str, target_port: int, **options: Any) -> TcpProxy:
            return stack.enter_context(TcpProxy(target_host, target_port, **options))

        yield make


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """`Certificates` for the whole session."""
    from eventbus.testing.certificates import Certificates

    with skip_or_fail():
        return Certificates.create(tmp_path_factory.mktemp("certificates"))
    raise AssertionError("not reached")


@pytest.fixture
def eventbus_leaks() -> Iterator[LeakGuard]:
    """A `LeakGuard` around this test and the fixtures requested after it."""
    from eventbus.testing.leaks import LeakGuard

    with LeakGuard() as guard:
        yield guard


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where pytest-xdist spreads the tests: what a worker used goes to who reports."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_REPORT] = session.config.stash.get(_used, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect what a worker of pytest-xdist has used."""
    node.config.stash.setdefault(_used, {}).update(getattr(node, "workeroutput", {}).get(_REPORT, {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which servers the fixtures brought."""
    for name, source in config.stash.get(_used, {}).items():
        terminalreporter.write_line(f"eventbus: tests used {name}: {source}")


def _note(config: pytest.Config, name: str, source: object) -> None:
    config.stash.setdefault(_used, {})[name] = str(source)


def _started_kafka(config: pytest.Config) -> Iterator[KafkaServer | ExternalKafka]:
    from eventbus.testing.servers.kafka_external import open_kafka
    from eventbus.testing.servers.kafka_source import find_kafka

    yield from _started(config, "Kafka", open_kafka, find_kafka)


def _started_server(config: pytest.Config) -> Iterator[NatsServer | ExternalNats]:
    from eventbus.testing.servers.nats_external import open_nats
    from eventbus.testing.servers.nats_source import find_nats

    yield from _started(config, "NATS", open_nats, find_nats)


def _started(
    config: pytest.Config, name: str, open_server: Callable[[], _Server], find: Callable[[], object]
) -> Iterator[_Server]:
    with skip_or_fail():
        server = open_server()
        try:
            server.start()
        except BaseException:
            server.close()
            raise
        _note(config, name, find())
    try:
        yield server
    finally:
        server.close()
