"""Certificates that the ssl module accepts, and some that it must not."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from eventbus.testing import Certificates, ServerUnavailable


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bytes:
    """Do a TLS handshake over a socket pair and return what the client then hears."""
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(5.0)
        right.settimeout(5.0)
        thread = threading.Thread(target=greet, args=(server, left), name="eventbus.testing.tls")
        thread.start()
        try:
            with client.wrap_socket(right, server_hostname=name) as wrapped:
                return wrapped.recv(16)
        finally:
            right.close()
            thread.join(5.0)


def greet(context: ssl.SSLContext, sock: socket.socket) -> None:
    """Be the server."""
    try:
        with context.wrap_socket(sock, server_side=True) as wrapped:
            wrapped.sendall(b"hello")
    except OSError:
        sock.close()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_the_server_is_trusted_by_each_of_its_names(certificates: Certificates, name: str) -> None:
    server = certificates.server_context()
    assert shake_hands(server, certificates.client_context(), name) == b"hello"


def test_strict_verification_is_satisfied_both_ways(certificates: Certificates) -> None:
    server = certificates.server_context(verify_clients=True)
    client = certificates.client_context(identify=True)
    for context in (server, client):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert shake_hands(server, client, "localhost") == b"hello"


def test_another_name_and_another_authority_are_refused(certificates: Certificates) -> None:
    server = certificates.server_context()
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(server, certificates.client_context(), "example.org")
    stranger = ssl.create_default_context(cafile=str(certificates.other_ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, stranger, "localhost")


def test_a_client_of_the_other_authority_is_refused(certificates: Certificates) -> None:
    server = certificates.server_context(verify_clients=True)
    client = certificates.client_context()
    client.load_cert_chain(certificates.other_client_cert, certificates.other_client_key)
    with pytest.raises(OSError, match=r"unknown ca|UNKNOWN_CA|reset|[Bb]roken"):
        assert shake_hands(server, client, "localhost") == b"", "refused without an alert"
        raise ConnectionResetError("reset")


def test_they_are_made_fast_and_each_time_anew(tmp_path: Path) -> None:
    started = time.monotonic()
    one = Certificates.create(tmp_path / "one")
    assert time.monotonic() - started < 3.0
    two = Certificates.create(tmp_path / "two")
    assert one.ca.read_bytes() != two.ca.read_bytes()


def test_without_openssl_the_reason_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    with pytest.raises(ServerUnavailable, match="no openssl command"):
        Certificates.create(tmp_path)
