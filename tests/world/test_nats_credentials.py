"""Narrow, on NATS: keys, JWTs and tokens on real servers; they are renewed without a restart, and never shown."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats_issuer import Issuer, new_key, public
from rounds import limit
from world_support import Seen, end

from eventbus import AuthenticationError, ConfigError, ConnectFailedError, EventBus, Phase, TlsConfig
from eventbus.testing import Certificates, NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(40.0))]


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def operated(issuer: Issuer) -> Iterator[NatsServer]:
    with NatsServer(config=issuer.config) as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.records:
        assert not any(word in record.getMessage() for word in ("eyJ0", "SUA", "s3cret"))


def works(server: NatsServer, **settings: object) -> None:
    """It opens, publishes, reads, comes back, and shows nothing."""
    bus, seen = EventBus({"url": server.url, **settings}), Seen()
    assert not any(word in repr(bus.config) for word in ("eyJ0", "SUA", "s3cret"))
    try:
        bus.open()
        bus.subscribe("orders.*", seen, group="g")
        assert bus.publish("orders.new", b"1").confirmed
        server.restart()
        assert bus.publish("orders.new", b"2", timeout=10.0).confirmed
        seen.wait(2, 10.0)
    finally:
        end(bus)


def fails(server: NatsServer, kind: type[ConnectFailedError], **settings: object) -> str:
    bus = EventBus({"url": server.url, **settings})
    with pytest.raises(kind) as caught:
        bus.open()
    text = str(caught.value)
    assert not any(word in text for word in ("eyJ0", "SUA", "s3cret"))
    assert bus.get_connection_state().phase is Phase.NEW
    return text


def test_a_creds_file_lets_us_in(operated: NatsServer, issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "user.creds"
    path.write_text(issuer.creds())
    works(operated, credentials=str(path))


def test_a_callback_for_credentials_lets_us_in(operated: NatsServer, issuer: Issuer) -> None:
    works(operated, credentials=issuer.creds)


@pytest.mark.parametrize("called", [True, False])
def test_a_jwt_and_its_seed_let_us_in(operated: NatsServer, issuer: Issuer, called: bool) -> None:
    user = new_key()
    jwt, seed = issuer.jwt(user), user.seed.decode()
    works(operated, jwt=(lambda: jwt) if called else jwt, nkey=(lambda: seed) if called else seed)


def test_the_right_key_lets_us_in() -> None:
    user = new_key()
    config = f"authorization {{ users: {json.dumps([{'nkey': public(user)}])} }}"
    with NatsServer(config=config) as server:
        works(server, nkey=user.seed.decode())
        assert "refused the credentials" in fails(server, AuthenticationError, nkey=new_key().seed.decode())


@pytest.mark.parametrize("called", [True, False])
def test_the_right_token_lets_us_in(called: bool) -> None:
    with NatsServer(config='authorization { token: "s3cret" }') as server:
        works(server, token=(lambda: "s3cret") if called else "s3cret")
        assert "refused the credentials" in fails(server, AuthenticationError, token="other")


def test_certificates_may_be_given_as_text(certificates: Certificates) -> None:
    ca, certificate, key = (
        path.read_text() for path in (certificates.ca, certificates.client_cert, certificates.client_key)
    )
    with NatsServer(tls=certificates, verify_clients=True) as server:
        works(server, tls=TlsConfig(ca=ca, certificate=certificate, key=key))
        works(server, tls=TlsConfig(ca=ca, certificate=certificate + key))


def test_what_is_wrong_says_so(operated: NatsServer, issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "user.creds"
    assert "cannot be read" in fails(operated, ConnectFailedError, credentials=str(path))
    path.write_text("nothing")
    assert "a .creds file has two" in fails(operated, AuthenticationError, credentials=str(path))
    path.write_text(Issuer().creds())
    assert "refused the credentials" in fails(operated, AuthenticationError, credentials=str(path))
    path.write_text(issuer.creds(expires=-10.0))
    assert "its JWT has expired at 20" in fails(operated, AuthenticationError, credentials=str(path))
    assert "the callback for 'token' failed" in fails(operated, ConnectFailedError, token=lambda: str(1 / 0))
    assert "has returned no text" in fails(operated, AuthenticationError, token=lambda: b"x")
    assert "the seed is none" in fails(operated, AuthenticationError, nkey=lambda: "SUAx", jwt="x.y.z")


def test_a_callback_that_hangs_costs_its_connect_and_no_more(operated: NatsServer) -> None:
    released = threading.Event()
    bus = EventBus({"url": operated.url, "token": lambda: str(released.wait(20.0)), "connect_timeout": 0.5})
    try:
        started = time.monotonic()
        with pytest.raises(ConnectFailedError, match=r"not be read in time|not connected within"):
            bus.open()
        assert time.monotonic() - started < 2.0
        for _ in range(3):
            with pytest.raises(ConnectFailedError):
                bus.open()
        waiting = [thread for thread in threading.enumerate() if thread.name == "eventbus.nats-credentials"]
        assert len(waiting) == 1, "what hangs is not asked again"
    finally:
        released.set()
        end(bus)


def test_what_expires_is_renewed_without_a_restart(operated: NatsServer, issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "user.creds"
    path.write_text(issuer.creds(expires=2.0))
    bus, seen = EventBus({"url": operated.url, "credentials": str(path)}), Seen()
    try:
        bus.open()
        bus.subscribe("orders.*", seen, group="g")
        bus.publish("orders.new", b"1")
        path.write_text(issuer.creds())
        wait_until(lambda: bus.get_connection_state().reconnect_count == 1)
        bus.publish("orders.new", b"2")
        seen.wait(2)
    finally:
        end(bus)


def test_what_has_expired_is_told_as_such(operated: NatsServer, issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "user.creds"
    path.write_text(issuer.creds(expires=2.0))
    bus = EventBus(
        {"url": operated.url, "credentials": str(path), "reconnect": {"initial_backoff": 0.1, "max_backoff": 0.5}}
    )
    try:
        bus.open()
        wait_until(lambda: isinstance(bus.get_connection_state().last_error, AuthenticationError))
        assert "expired" in str(bus.get_connection_state().last_error)
        path.write_text(issuer.creds())
        assert bus.wait_connected(10.0)
    finally:
        end(bus)


def test_one_way_to_say_who_we_are() -> None:
    with pytest.raises(ConfigError, match="either user or token"):
        EventBus({"url": "nats://h", "user": "u", "password": "p", "token": "t"})
    with pytest.raises(ConfigError, match="either credentials or nkey or jwt"):
        EventBus({"url": "nats://h", "credentials": "/c", "jwt": "j"})
    with pytest.raises(ConfigError, match=r"the path of a \.creds file") as caught:
        EventBus({"url": "nats://h", "credentials": Issuer().creds()})
    assert "eyJ0" not in str(caught.value) and "SUA" not in str(caught.value)
    with pytest.raises(ConfigError, match="nkey is no seed of a user") as caught:
        EventBus({"url": "nats://h", "nkey": "s3cret"})
    assert "s3cret" not in str(caught.value)

    async def late() -> str:
        return "t"

    with pytest.raises(ConfigError, match="token must be a str or a function"):
        EventBus({"url": "nats://h", "token": late})
