"""What a test server is configured with, and the configuration file made of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from eventbus.testing.certificates import Certificates
from eventbus.testing.ports import bracketed, require_loopback

_JETSTREAM_LIMITS = "max_memory_store: 1GB, max_file_store: 4GB"


@dataclass(frozen=True, kw_only=True)
class NatsOptions:
    """The settings of one server. Times are seconds."""

    jetstream: bool = True
    #: Text added to the end of the configuration file.
    config: str = ""
    #: A loopback address; ``::1`` for IPv6.
    host: str = "127.0.0.1"
    user: str | None = None
    password: str | None = None
    token: str | None = None
    #: Speak TLS with these.
    tls: Certificates | None = None
    #: Ask clients for a certificate of the same authority.
    verify_clients: bool = False
    #: The TLS handshake comes before INFO.
    handshake_first: bool = False
    #: Bytes.
    max_payload: int | None = None
    #: How long a lame duck takes to cut off its clients; the server takes no less than 30 s.
    lame_duck_duration: float = 30.0
    #: How long a lame duck waits before it cuts off the first.
    lame_duck_grace: float = 1.0
    #: A ``cluster { }`` block.
    cluster: str = ""

    def __post_init__(self) -> None:
        """Check what the server would refuse less readably."""
        require_loopback(self.host)
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")
        if self.user is not None and self.token is not None:
            raise ValueError("a server has users or a token, not both")
        if self.tls is None and (self.verify_clients or self.handshake_first):
            raise ValueError("verify_clients and handshake_first need tls=Certificates")

    def url(self, host: str, port: int) -> str:
        """Return the URL for clients, credentials included; ``tls://`` where TLS is on."""
        login = ""
        if self.user is not None:
            login = f"{quote(self.user, safe='')}:{quote(self.password or '', safe='')}@"
        elif self.token is not None:
            login = f"{quote(self.token, safe='')}@"
        return f"{'tls' if self.tls else 'nats'}://{login}{bracketed(host)}:{port}"


@dataclass(frozen=True)
class Layout:
    """Its name, where it listens and keeps its files, as the server itself sees them."""

    name: str
    listen: str
    monitor: str
    store: str
    certificates: dict[str, str] = field(default_factory=dict)


def local_certificates(tls: Certificates | None) -> dict[str, str]:
    """Return the certificate settings for a server that reads this machine's files."""
    return {key: str(path) for key, path in certificate_files(tls).items()}


def certificate_files(tls: Certificates | None) -> dict[str, Path]:
    """Return the files that the server needs, by the names of its settings."""
    if tls is None:
        return {}
    return {"cert_file": tls.server_cert, "key_file": tls.server_key, "ca_file": tls.ca}


def render(options: NatsOptions, layout: Layout) -> str:
    """Return the text of the configuration file."""
    lines = [
        f"server_name: {_text(layout.name)}",
        f"listen: {_text(layout.listen)}",
        f"http: {_text(layout.monitor)}",
        f"lame_duck_duration: {_duration(options.lame_duck_duration)}",
        f"lame_duck_grace_period: {_duration(options.lame_duck_grace)}",
    ]
    if options.jetstream:
        store = _text(layout.store)
        lines.append(f"jetstream {{ store_dir: {store}, {_JETSTREAM_LIMITS} }}")
    if options.max_payload is not None:
        lines.append(f"max_payload: {options.max_payload}")
    lines += _authorization(options)
    if options.tls is not None:
        lines.append(f"tls {{ {_tls(options, layout)} }}")
    return "\n".join([*lines, options.cluster, options.config, ""])


def _authorization(options: NatsOptions) -> list[str]:
    if options.user is not None:
        who = f"user: {_text(options.user)}, password: {_text(options.password or '')}"
    elif options.token is not None:
        who = f"token: {_text(options.token)}"
    else:
        return []
    return [f"authorization {{ {who} }}"]


def _tls(options: NatsOptions, layout: Layout) -> str:
    parts = [f"{key}: {_text(path)}" for key, path in layout.certificates.items()]
    parts.append(f"verify: {_bool(options.verify_clients)}")
    parts.append(f"handshake_first: {_bool(options.handshake_first)}")
    return ", ".join(parts)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _duration(seconds: float) -> str:
    return f'"{round(seconds * 1000)}ms"'
