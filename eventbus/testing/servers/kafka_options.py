"""What a Kafka test server is configured with, and the properties file made of it."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from eventbus.testing.certificates import Certificates

Setting = str | int | float | bool
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]

HOST = "127.0.0.1"
#: The files of :func:`certificate_files`.
KEY_STORE = "keystore.pem"
TRUST_STORE = "truststore.pem"

#: What ``fast=True`` sets: a start, a restart after ``kill -9`` and a rebalance of a second or two.
FAST: Mapping[str, Setting] = {
    # A killed broker is registered, and keeps its own restart waiting, until this has passed.
    "broker.session.timeout.ms": 1000,
    "broker.heartbeat.interval.ms": 250,
    "controller.quorum.election.timeout.ms": 300,
    "controller.quorum.election.backoff.max.ms": 200,
    "controller.quorum.fetch.timeout.ms": 1000,
    "controller.quorum.retry.backoff.ms": 20,
    "replica.lag.time.max.ms": 2000,
    "replica.fetch.wait.max.ms": 200,
    "replica.socket.timeout.ms": 3000,
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000,
    "group.consumer.min.session.timeout.ms": 1000,
    "group.consumer.session.timeout.ms": 6000,
    "group.consumer.min.heartbeat.interval.ms": 100,
    "group.consumer.heartbeat.interval.ms": 1000,
}
# Less memory, fewer threads and smaller files; nothing that a client can see.
_SMALL: Mapping[str, Setting] = {
    "initial.broker.registration.timeout.ms": 60_000,
    "offsets.topic.num.partitions": 2,
    "transaction.state.log.num.partitions": 2,
    "share.coordinator.state.topic.num.partitions": 2,
    "log.cleaner.dedupe.buffer.size": 4 << 20,
    "log.cleaner.threads": 1,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "num.recovery.threads.per.data.dir": 2,
    "background.threads": 2,
    "log.segment.bytes": 64 << 20,
    "log.index.size.max.bytes": 1 << 20,
    "auto.create.topics.enable": False,
}
# The clients' own listener and the brokers' are apart, so that no security gets in our own way.
_OURS = frozenset(
    {
        "process.roles",
        "node.id",
        "broker.id",
        "log.dir",
        "log.dirs",
        "metadata.log.dir",
        "controller.quorum.voters",
        "controller.listener.names",
        "inter.broker.listener.name",
        "listeners",
        "advertised.listeners",
        "listener.security.protocol.map",
    }
)
_ITERATIONS = 4096


@dataclass(frozen=True, kw_only=True)
class KafkaOptions:
    """The settings of one server, or of all of a cluster."""

    #: Server properties, added to ours or in their place: ``{"group.consumer.session.timeout.ms": 2000}``.
    settings: Mapping[str, Setting] = field(default_factory=dict)
    #: Time-outs for impatient tests (:data:`FAST`); ``False``: those that Kafka has by default.
    fast: bool = True
    #: Ask clients to log in (SASL) as this user.
    user: str | None = None
    password: str | None = None
    #: How they log in. OAUTHBEARER has no user: whoever shows an unsecured token
    #: (:func:`~eventbus.testing.servers.kafka_tokens.unsecured_token`) gets in as the one it names.
    mechanism: Mechanism = "PLAIN"
    #: Speak TLS with these.
    tls: Certificates | None = None
    #: Ask clients for a certificate of the same authority (mutual TLS).
    verify_clients: bool = False
    #: Check access rights: everything is allowed that is not denied.
    acl: bool = False

    def __post_init__(self) -> None:
        """Check what the server would refuse less readably, or not at all."""
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")
        if self.mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"):
            raise ValueError(f"no such mechanism: {self.mechanism!r}")
        if self.mechanism == "OAUTHBEARER" and self.user is not None:
            raise ValueError("OAUTHBEARER goes by tokens, without user and password")
        if self.user is None and self.mechanism not in ("PLAIN", "OAUTHBEARER"):
            raise ValueError(f"mechanism {self.mechanism} needs user and password")
        if self.tls is None and self.verify_clients:
            raise ValueError("verify_clients needs tls=Certificates")
        if self.user is not None and not self.user.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"a user of letters, digits, - and _, not {self.user!r}")
        for name in self.settings:
            if name in _OURS:
                raise ValueError(f"the test server sets {name} itself")
            if not name or any(char.isspace() or char in "=:#!\\" for char in name):
                raise ValueError(f"not the name of a server property: {name!r}")

    @property
    def protocol(self) -> str:
        """Kafka's name for how clients connect: ``PLAINTEXT``, ``SASL_SSL``..."""
        return f"{'SASL_' if self.asks_login else ''}{'SSL' if self.tls else 'PLAINTEXT'}"

    @property
    def asks_login(self) -> bool:
        """Whether clients have to log in."""
        return self.user is not None or self.mechanism == "OAUTHBEARER"

    def client_options(self) -> dict[str, str]:
        """Return what librdkafka needs to get in, by the names of its settings."""
        options = {} if self.protocol == "PLAINTEXT" else {"security.protocol": self.protocol}
        if self.user is not None:
            options["sasl.mechanism"] = self.mechanism
            options["sasl.username"] = self.user
            options["sasl.password"] = self.password or ""
        elif self.asks_login:
            options["sasl.mechanism"] = self.mechanism
            options["enable.sasl.oauthbearer.unsecure.jwt"] = "true"
            options["sasl.oauthbearer.config"] = "principal=tester"
        if self.tls is not None:
            options["ssl.ca.location"] = str(self.tls.ca)
            if self.verify_clients:
                options["ssl.certificate.location"] = str(self.tls.client_cert)
                options["ssl.key.location"] = str(self.tls.client_key)
        return options

    def scram_credential(self) -> str:
        """Return the argument for the tool that formats the store; empty where there is no SCRAM."""
        if self.user is None or self.mechanism == "PLAIN":
            return ""
        salt = secrets.token_bytes(24)
        digest = self.mechanism.removeprefix("SCRAM-").replace("-", "").lower()
        salted = hashlib.pbkdf2_hmac(digest, (self.password or "").encode(), salt, _ITERATIONS)
        parts = (
            f"name={self.user}",
            f'salt="{_base64(salt)}"',
            f'saltedpassword="{_base64(salted)}"',
            f"iterations={_ITERATIONS}",
        )
        return f"{self.mechanism}=[{','.join(parts)}]"


@dataclass(frozen=True)
class Seat:
    """The place of one server in its cluster."""

    node_id: int
    cluster_id: str
    #: Address of every server's controller, by its node id.
    voters: Mapping[int, tuple[str, int]]

    @property
    def size(self) -> int:
        """How many servers the cluster has."""
        return len(self.voters)


@dataclass(frozen=True)
class Layout:
    """Where it listens and keeps its files, as the server itself sees them."""

    seat: Seat
    #: The address it binds its ports for clients and brokers to; that for controllers is local.
    bind: str
    client_port: int
    inner_port: int
    #: The port that clients are told to connect to.
    advertised_port: int
    store: str
    #: Of a file with key, certificate and authority; and of one with the authority.
    key_store: str = ""
    trust_store: str = ""


def new_cluster_id() -> str:
    """Return an id as Kafka makes them: 16 random bytes, in base64 without a leading dash."""
    while True:
        text = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def certificate_files(tls: Certificates | None) -> dict[str, bytes]:
    """Return the files that the server needs, by name."""
    if tls is None:
        return {}
    key_store = b"\n".join(path.read_bytes() for path in (tls.server_key, tls.server_cert, tls.ca))
    return {KEY_STORE: key_store, TRUST_STORE: tls.ca.read_bytes()}


def properties(options: KafkaOptions, layout: Layout) -> dict[str, Setting]:
    """Return the server's properties."""
    found: dict[str, Setting] = {
        **_SMALL,
        **_replication(layout.seat.size),
        **(FAST if options.fast else {}),
        **_listeners(options, layout),
        "process.roles": "broker,controller",
        "node.id": layout.seat.node_id,
        "log.dirs": layout.store,
    }
    if options.asks_login:
        found.update(_login(options))
    if options.tls is not None:
        found.update(_tls(options, layout))
    if options.acl:
        found["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
        found["super.users"] = "User:ANONYMOUS"
        found["allow.everyone.if.no.acl.found"] = True
    return {**found, **options.settings}


def render(options: KafkaOptions, layout: Layout) -> str:
    """Return the text of the properties file."""
    lines = [f"{key}={_text(value)}" for key, value in properties(options, layout).items()]
    return "\n".join([*lines, ""])


def _replication(size: int) -> dict[str, Setting]:
    copies, needed = min(3, size), min(2, size)
    return {
        "default.replication.factor": copies,
        "min.insync.replicas": needed,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": needed,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": needed,
    }


def _listeners(options: KafkaOptions, layout: Layout) -> dict[str, Setting]:
    seat = layout.seat
    listeners = (
        f"CLIENT://{layout.bind}:{layout.client_port}",
        f"INNER://{layout.bind}:{layout.inner_port}",
        f"CONTROLLER://{HOST}:{seat.voters[seat.node_id][1]}",
    )
    return {
        "listeners": ",".join(listeners),
        "advertised.listeners": f"CLIENT://{HOST}:{layout.advertised_port},INNER://{HOST}:{layout.inner_port}",
        "listener.security.protocol.map": f"CLIENT:{options.protocol},INNER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "INNER",
        "controller.quorum.voters": ",".join(f"{node}@{host}:{port}" for node, (host, port) in seat.voters.items()),
    }


def _login(options: KafkaOptions) -> dict[str, Setting]:
    mechanism = options.mechanism
    if mechanism == "PLAIN":
        password = (options.password or "").replace("\\", "\\\\").replace('"', '\\"')
        module = f'plain.PlainLoginModule required user_{options.user}="{password}"'
    elif mechanism == "OAUTHBEARER":
        module = "oauthbearer.OAuthBearerLoginModule required"
    else:
        module = "scram.ScramLoginModule required"
    prefix = "listener.name.client."
    return {
        f"{prefix}sasl.enabled.mechanisms": mechanism,
        f"{prefix}{mechanism.lower()}.sasl.jaas.config": f"org.apache.kafka.common.security.{module};",
    }


def _tls(options: KafkaOptions, layout: Layout) -> dict[str, Setting]:
    prefix = "listener.name.client.ssl."
    return {
        f"{prefix}keystore.type": "PEM",
        f"{prefix}keystore.location": layout.key_store,
        f"{prefix}truststore.type": "PEM",
        f"{prefix}truststore.location": layout.trust_store,
        f"{prefix}client.auth": "required" if options.verify_clients else "none",
    }


def _text(value: Setting) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    escaped = str(value).replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    if escaped.startswith(" "):
        escaped = f"\\{escaped}"
    return "".join(char if " " <= char <= "~" else _unicode(char) for char in escaped)


def _unicode(char: str) -> str:
    units = char.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
