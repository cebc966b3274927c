"""Narrow, on Kafka: tokens, passwords and certificates on real brokers; renewed without a restart, and never shown."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rounds import LONG, limit, rounds
from world_support import Seen, end

from eventbus import (
    AuthenticationError,
    ConnectFailedError,
    ErrorEvent,
    EventBus,
    EventBusConfig,
    HealthCheckConfig,
    KafkaConfig,
    KafkaToken,
    Phase,
    ReconnectConfig,
    TlsConfig,
)
from eventbus.testing import Certificates, KafkaServer, wait_until
from eventbus.testing.plugin import skip_or_fail
from eventbus.testing.servers.kafka_tokens import unsecured_token

pytest.importorskip("confluent_kafka")

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

pytestmark = [pytest.mark.kafka, pytest.mark.watchdog(limit(60.0))]

SECRETS = ("eyJ", "s3cret", "PRIVATE KEY")


@contextmanager
def serving(**options: Any) -> Iterator[KafkaServer]:
    with skip_or_fail():
        server = KafkaServer(**options).start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def token_server() -> Iterator[KafkaServer]:
    with serving(mechanism="OAUTHBEARER") as server:
        yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    with skip_or_fail():
        return Certificates.create(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def _nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.records:
        assert not any(word in caplog.handler.format(record) for word in SECRETS)


def new_bus(server: KafkaServer, **kafka: Any) -> EventBus:
    health = HealthCheckConfig(interval=0.5, timeout=0.5, retry_interval=0.2)
    backend = KafkaConfig(brokers=server.bootstrap, **kafka)
    bus = EventBus(EventBusConfig(backend=backend, health_check=health, reconnect=ReconnectConfig(max_backoff=1.0)))
    assert not any(word in repr(bus.config) for word in SECRETS)
    return bus


def works(server: KafkaServer, **kafka: Any) -> None:
    """It opens, publishes and reads."""
    bus, seen, topic = new_bus(server, **kafka), Seen(), f"t{os.urandom(4).hex()}"
    try:
        bus.open(10.0)
        bus.subscribe(topic, seen, group="g")
        assert bus.publish(topic, b"1", timeout=10.0).confirmed
        seen.wait(1, 15.0)
    finally:
        end(bus)


def fails(server: KafkaServer, kind: type[ConnectFailedError], **kafka: Any) -> ConnectFailedError:
    bus = new_bus(server, **kafka)
    with pytest.raises(kind) as caught:
        bus.open()
    assert not any(word in str(caught.value) for word in SECRETS)
    assert bus.get_connection_state().phase is Phase.NEW
    return caught.value


# -- tokens --------------------------------------------------------------------------------------


def as_token() -> KafkaToken:
    return KafkaToken(unsecured_token("alice"), time.time() + 100.0, "alice", {"traceId": "1", "logicalCluster": "a-b"})


def as_text() -> Callable[[], str]:
    return lambda: unsecured_token("alice")


@pytest.mark.parametrize("make", [as_text, as_token], ids=["called text", "KafkaToken"])
def test_a_token_lets_us_in(token_server: KafkaServer, make: Callable[[], Any]) -> None:
    works(token_server, token=make())


def test_a_token_that_is_none_says_so(token_server: KafkaServer) -> None:
    late = KafkaToken("x", time.time() - 10.0)
    stale = KafkaToken(unsecured_token("alice", -100.0), time.time() + 100.0)
    assert "has expired at 20" in str(fails(token_server, AuthenticationError, token=late))
    assert "has expired at 20" in str(fails(token_server, AuthenticationError, token=lambda: late))
    assert "has expired at 20" in str(fails(token_server, AuthenticationError, token=unsecured_token("alice", -10.0)))
    assert "a str or KafkaToken" in str(fails(token_server, AuthenticationError, token=lambda: b"x"))
    assert "visible ASCII" in str(fails(token_server, AuthenticationError, token=lambda: "two\nlines"))
    assert "invalid_token" in str(fails(token_server, AuthenticationError, token=lambda: stale))
    failed = fails(token_server, ConnectFailedError, token=lambda: str(1 / 0))
    assert "the callback for 'token' failed" in str(failed)
    assert isinstance(failed.__cause__, ZeroDivisionError)


def test_a_callback_that_hangs_costs_its_connect_and_no_more(token_server: KafkaServer) -> None:
    released = threading.Event()

    def token() -> str:
        released.wait(30.0)
        return unsecured_token("alice")

    bus = new_bus(token_server, token=token)
    try:
        with pytest.raises(ConnectFailedError, match=r"not be read in time|not connected within"):
            bus.open(0.5)
        released.set()
        wait_until(lambda: not any(one.name == "eventbus.kafka-login" for one in threading.enumerate()), 5.0)
        bus.open(10.0)
    finally:
        end(bus)


def test_tokens_are_renewed_in_time_and_a_failing_callback_is_told_and_asked_again() -> None:
    """The broker ends each link whose token is over, so who still publishes has a newer one."""
    mended = threading.Event()
    asked: list[float] = []
    told: list[ErrorEvent] = []

    def token() -> str:
        asked.append(time.time())
        if len(asked) > 1 and not mended.is_set():
            raise RuntimeError("the issuer is away")
        return unsecured_token("alice", 4.0)

    reauthenticate = {"listener.name.client.oauthbearer.connections.max.reauth.ms": 3_600_000}
    with serving(mechanism="OAUTHBEARER", settings=reauthenticate) as server:
        bus, seen = new_bus(server, token=token), Seen()
        bus.register_error_callback(told.append)
        try:
            bus.open(10.0)
            first = asked[0]
            bus.subscribe("renewed", seen, group="g")
            assert bus.publish("renewed", b"1", timeout=10.0).confirmed
            wait_until(lambda: any("the callback for 'token' failed" in str(one.error) for one in told), 10.0)
            assert any(isinstance(one.error.__cause__, RuntimeError) for one in told)
            mended.set()
            wait_until(lambda: len(asked) > 4, 25.0)
            wait_until(lambda: time.time() > first + 5.0, 10.0)
            assert bus.publish("renewed", b"2", timeout=20.0).confirmed
            seen.wait(2, 20.0)
        finally:
            end(bus)


@pytest.mark.skipif(not LONG, reason="not applicable: only in the long form")
def test_clients_whose_token_the_broker_takes_no_more_are_replaced() -> None:
    """The token ends for the broker before it says so: only other clients can show another one."""
    asked: list[float] = []

    def token() -> KafkaToken:
        asked.append(time.time())
        return KafkaToken(unsecured_token("alice", 5.0 if len(asked) == 1 else 300.0), time.time() + 300.0)

    reauthenticate = {"listener.name.client.oauthbearer.connections.max.reauth.ms": 3_600_000}
    with serving(mechanism="OAUTHBEARER", settings=reauthenticate) as server:
        bus, seen = new_bus(server, token=token), Seen()
        try:
            bus.open(10.0)
            bus.subscribe("replaced", seen, group="g")
            wait_until(lambda: isinstance(bus.get_connection_state().last_error, AuthenticationError), 30.0)
            assert bus.publish("replaced", b"x", timeout=30.0).confirmed
            seen.wait(1, 30.0)
            assert bus.get_connection_state().reconnect_count >= 1
        finally:
            end(bus)


# -- passwords -----------------------------------------------------------------------------------


def set_password(server: KafkaServer, password: str) -> None:
    """At the running broker, as an operator does it."""
    admin = AdminClient({"bootstrap.servers": server.inner_bootstrap, "log_level": 0})
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
    change = UserScramCredentialUpsertion("alice", info, password.encode())
    admin.alter_user_scram_credentials([change])["alice"].result(10.0)


def test_a_password_that_changes_is_taken_up_by_living_clients() -> None:
    now = ["s3cret-1"]
    options: dict[str, Any] = {"user": "alice", "password": "s3cret-1", "mechanism": "SCRAM-SHA-256", "proxied": True}
    with serving(**options) as server:
        bus, seen = new_bus(server, user="alice", password=lambda: now[-1], sasl_mechanism="SCRAM-SHA-256"), Seen()
        try:
            bus.open(10.0)
            bus.subscribe("changed", seen, group="g")
            assert bus.publish("changed", b"1", timeout=10.0).confirmed
            seen.wait(1, 15.0)
            for number in range(2, rounds(3, 20)):
                set_password(server, f"s3cret-{number}")
                now.append(f"s3cret-{number}")
                server.proxy.cut()
                assert bus.publish("changed", str(number), timeout=20.0).confirmed
                seen.wait(number, 20.0)
        finally:
            end(bus)


def test_a_password_that_is_wrong_from_now_on_is_told_and_mended_without_a_restart() -> None:
    now = ["s3cret-1"]
    options: dict[str, Any] = {"user": "alice", "password": "s3cret-1", "mechanism": "SCRAM-SHA-256", "proxied": True}
    with serving(**options) as server:
        bus = new_bus(server, user="alice", password=lambda: now[-1], sasl_mechanism="SCRAM-SHA-256")
        try:
            bus.open(10.0)
            set_password(server, "s3cret-2")
            server.proxy.cut()
            wait_until(lambda: isinstance(bus.get_connection_state().last_error, AuthenticationError), 20.0)
            now.append("s3cret-2")
            assert bus.publish("mended", b"x", timeout=30.0).confirmed
            wait_until(lambda: bus.get_health_status().is_healthy, 20.0)
        finally:
            end(bus)


@pytest.mark.parametrize(
    ("password", "kind", "words"),
    [
        (lambda: "other", AuthenticationError, "uthentication failed"),
        (lambda: b"x", AuthenticationError, "has returned no text"),
        (lambda: "", AuthenticationError, "has returned no text"),
        (lambda: str(1 / 0), ConnectFailedError, "the callback for 'password' failed"),
    ],
)
def test_a_password_that_is_none_says_so(login_server: KafkaServer, password: Any, kind: Any, words: str) -> None:
    assert words in str(fails(login_server, kind, user="alice", password=password))


@pytest.fixture(scope="module")
def login_server() -> Iterator[KafkaServer]:
    with serving(user="alice", password="s3cret") as server:
        yield server


# -- certificates --------------------------------------------------------------------------------


def test_certificates_as_text_or_path(certificates: Certificates) -> None:
    ca, certificate, key = certificates.ca, certificates.client_cert, certificates.client_key
    texts = [f"Bag Attributes\n{path.read_text()}" for path in (ca, certificate, key)]
    both = TlsConfig(ca=texts[0], certificate=key.read_text() + certificate.read_text())
    with serving(tls=certificates, verify_clients=True) as server:
        works(server, tls=TlsConfig(ca=texts[0], certificate=texts[1], key=texts[2]))
        works(server, tls=TlsConfig(ca=str(ca), certificate=texts[1], key=str(key)))
        with new_bus(server, tls=both):
            pass
        assert "certificate" in str(fails(server, ConnectFailedError, tls=TlsConfig(ca=str(ca))))
