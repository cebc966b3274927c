"""Certificates for tests, made in a moment by the ``openssl`` command."""

from __future__ import annotations

import secrets
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from eventbus.testing.servers.process import ServerUnavailable

_DAYS = "30"
_TIMEOUT = 30.0
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_CONFIG = """
[req]
distinguished_name = name
prompt = no
[name]
CN = eventbus test
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:client.eventbus.test
"""


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, what it signed, and a second authority that nobody should trust.

    The server's certificate is for ``localhost``, ``127.0.0.1`` and ``::1``.
    """

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path
    #: The other authority, and a client certificate that it signed.
    other_ca: Path
    other_client_cert: Path
    other_client_key: Path

    @classmethod
    def create(cls, directory: Path | str) -> Certificates:
        """Make them all in ``directory`` (which is created), with EC keys, valid for 30 days.

        Raises:
            ServerUnavailable: there is no ``openssl`` command, or it failed; says how.
        """
        maker = _Maker(Path(directory))
        ca, ca_key = maker.authority("ca")
        other, other_key = maker.authority("other-ca")
        server_cert, server_key = maker.signed("server", "server", ca, ca_key)
        client_cert, client_key = maker.signed("client", "client", ca, ca_key)
        stranger_cert, stranger_key = maker.signed("other-client", "client", other, other_key)
        return cls(
            ca=ca,
            server_cert=server_cert,
            server_key=server_key,
            client_cert=client_cert,
            client_key=client_key,
            other_ca=other,
            other_client_cert=stranger_cert,
            other_client_key=stranger_key,
        )

    def client_context(self, *, identify: bool = False) -> ssl.SSLContext:
        """Return a context that trusts :attr:`ca`; ``identify`` adds the client certificate."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if identify:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context

    def server_context(self, *, verify_clients: bool = False) -> ssl.SSLContext:
        """Return a context for a server socket; ``verify_clients`` demands a certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.ca))
        context.load_cert_chain(self.server_cert, self.server_key)
        if verify_clients:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class _Maker:
    """Calls the command in one directory."""

    def __init__(self, directory: Path) -> None:
        command = shutil.which("openssl")
        if command is None:
            raise ServerUnavailable("no openssl command to make test certificates with")
        self._command = command
        self._directory = directory.absolute()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._config = self._directory / "openssl.cnf"
        self._config.write_text(_CONFIG)

    def authority(self, name: str) -> tuple[Path, Path]:
        """Make a self-signed authority; return certificate and key."""
        cert, key = self._paths(name)
        self._request(name, cert, "-x509", "-days", _DAYS, "-extensions", "ca")
        return cert, key

    def signed(self, name: str, usage: str, ca: Path, ca_key: Path) -> tuple[Path, Path]:
        """Make a certificate signed by an authority; return certificate and key."""
        cert, key = self._paths(name)
        request = self._directory / f"{name}.csr"
        self._request(name, request)
        signing: list[str | Path] = ["-CA", ca, "-CAkey", ca_key]
        serial = f"0x{secrets.token_hex(16)}"
        self._run(
            "x509",
            "-req",
            "-in",
            request,
            "-out",
            cert,
            "-days",
            _DAYS,
            "-sha256",
            *signing,
            "-set_serial",
            serial,
            "-extfile",
            self._config,
            "-extensions",
            usage,
        )
        return cert, key

    def _request(self, name: str, out: Path, *more: str) -> None:
        key = self._paths(name)[1]
        self._run(
            "req",
            "-new",
            *_NEW_KEY,
            "-keyout",
            key,
            "-config",
            self._config,
            "-subj",
            f"/CN=eventbus {name}",
            "-sha256",
            "-out",
            out,
            *more,
        )

    def _paths(self, name: str) -> tuple[Path, Path]:
        return self._directory / f"{name}.pem", self._directory / f"{name}-key.pem"

    def _run(self, *arguments: str | Path) -> None:
        try:
            answer = subprocess.run(
                [self._command, *map(str, arguments)],
                check=False,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.SubprocessError) as exc:
            raise ServerUnavailable(f"openssl does not run: {exc}") from exc
        if answer.returncode:
            raise ServerUnavailable(f"openssl {arguments[0]} failed: {answer.stderr.strip()}")
