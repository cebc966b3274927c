"""How a connection is made safe."""

from __future__ import annotations

from attrs import frozen

from .config_fields import flag, optional_text, pem
from .errors import ConfigError


@frozen(kw_only=True)
class TlsConfig:
    """How a TLS connection is made: verified, unless `verify=False` is asked for by name.

    ca: a PEM file with the authorities to trust, None for the system's. certificate, key: the client certificate and
    its key, for servers that ask for one. Each is the path of a file, or its text: what has "-----BEGIN" in it.
    hostname: the name to verify, None for the one connected to.
    handshake_first: TLS before the server's first line, for servers set up so.
    """

    ca: str | None = pem()
    certificate: str | None = pem()
    key: str | None = pem()
    hostname: str | None = optional_text()
    verify: bool = flag(True)
    handshake_first: bool = flag(False)

    def __attrs_post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise ConfigError("tls.key is set without tls.certificate")
