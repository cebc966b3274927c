"""The settings of librdkafka's clients: a client that replaces another has exactly the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import Factory, field, frozen

from ....config_kafka import KafkaConfig
from ....config_tls import TlsConfig
from ....errors import ConfigError
from ....pem import is_pem
from .login import Login

_COMMON: dict[str, Any] = {
    "socket.timeout.ms": 10_000,  # what a link that died in silence costs, by default a minute
    "socket.connection.setup.timeout.ms": 5_000,
    "socket.keepalive.enable": True,
    "reconnect.backoff.ms": 100,
    "reconnect.backoff.max.ms": 1_000,
    "metadata.max.age.ms": 180_000,
    "allow.auto.create.topics": False,  # a probe for a topic would create it
    "log_level": 6,
}
_PRODUCER: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    "linger.ms": 0,  # each publish that waits pays it, and pays a whole millisecond for any fraction of one
    # lz4 costs a tenth of the publishing rate, and whether it pays is known to who knows the payloads.
    "compression.type": "none",
    "message.timeout.ms": 0,  # no end: the bus gives each publish its time
    "queue.buffering.max.messages": 2_000_000,  # more than the bus lets in: publishing never meets this bound
    "queue.buffering.max.kbytes": 2_097_151,
    "topic.metadata.propagation.max.ms": 1_000,  # topics are made sure of first: an unknown one was deleted
    "partitioner": "murmur2_random",  # a key has the same partition as with Java's clients
    "statistics.interval.ms": 0,
    "delivery.report.only.error": False,
}
_ADMIN: dict[str, Any] = {
    "log_level": 0,  # nobody polls it, which is what has lines written
}
_CONSUMER: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": False,
    "fetch.queue.backoff.ms": 10,  # by default a fast consumer stands still for up to a second
    "fetch.wait.max.ms": 100,
    "queued.min.messages": 10_000,
    "queued.max.messages.kbytes": 1_024,  # what waits there is lost when a partition has to rest
    "fetch.max.bytes": 1_048_576,
    "max.poll.interval.ms": 300_000,
}
_CLASSIC: dict[str, Any] = {
    "session.timeout.ms": 45_000,  # with a shorter one each outage longer than it costs one more
    "heartbeat.interval.ms": 3_000,
    "partition.assignment.strategy": "cooperative-sticky",
    "topic.metadata.refresh.interval.ms": 4_000,  # of its own topics: a member has to notice new partitions itself
}
ALIASES = {
    "queue.buffering.max.ms": "linger.ms",
    "compression.codec": "compression.type",
    "fetch.message.max.bytes": "max.partition.fetch.bytes",
    "max.in.flight.requests.per.connection": "max.in.flight",
    "sasl.mechanism": "sasl.mechanisms",
}
"""Second names: librdkafka would take whichever of the two comes last."""


@frozen
class ClientOptions:
    """All options of all clients for one configuration. `name`: client.id, unless the configuration has one.

    Each call makes a new dict with the same content, without callbacks but the one for tokens. login: who we are.
    static_id: of a static member of groups.
    """

    config: KafkaConfig
    name: str
    login: Login = field(default=Factory(lambda self: Login(self.config), takes_self=True), eq=False, repr=False)
    static_id: str | None = None

    @property
    def producer(self) -> dict[str, Any]:
        """For `Producer`."""
        return self._for(_PRODUCER, self.config.producer)

    @property
    def admin(self) -> dict[str, Any]:
        """For `AdminClient`."""
        return self._for(_ADMIN, self.config.admin)

    def consumer(self, group: str, *, protocol: str, start: str) -> dict[str, Any]:
        """For a `Consumer` in this group. `protocol`: "consumer" or "classic". `start`: "earliest" or "latest"."""
        if protocol not in ("consumer", "classic") or start not in ("earliest", "latest"):
            raise ValueError(f"no such protocol or start: {protocol!r}, {start!r}")
        classic = protocol == "classic"
        ours = {"group.id": group, "group.protocol": protocol, "auto.offset.reset": start}
        options = self._for(_CONSUMER | (_CLASSIC if classic else {}) | ours, self.config.consumer)
        if not classic:
            for key in _CLASSIC:  # raw ones, for the case that "auto" finds the classic protocol
                options.pop(key, None)
        elif "session.timeout.ms" not in self.config.common.keys() | self.config.consumer.keys():
            options["session.timeout.ms"] = _at_most(options["max.poll.interval.ms"], options["session.timeout.ms"])
        return options

    def _for(self, ours: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
        return _COMMON | self._place() | dict(ours) | _by_one_name(self.config.common) | _by_one_name(raw)

    def _place(self) -> dict[str, Any]:
        config = self.config
        login = self.login.options()
        sasl = bool(login) or "sasl.mechanisms" in _by_one_name(config.common)
        protocol = ("sasl_" if sasl else "") + ("plaintext" if config.tls is None else "ssl")
        return {
            "bootstrap.servers": ",".join(config.brokers),
            "client.id": config.client_name or self.name,
            "security.protocol": protocol,
            **login,
            **(_tls(config.tls) if config.tls is not None else {}),
        }


def _tls(tls: TlsConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"enable.ssl.certificate.verification": tls.verify}
    given = {"ca": tls.ca, "certificate": tls.certificate}
    if tls.certificate is not None:
        given["key"] = tls.key or tls.certificate  # as elsewhere: one file may have both
    for name, text in given.items():
        if text is not None:
            options[f"ssl.{name}.{'pem' if is_pem(text) else 'location'}"] = text
    return options


def _at_most(limit: Any, ours: int) -> Any:
    """Ours, unless the user's limit is below it: librdkafka refuses that, and says so of what is no number."""
    try:
        return min(int(limit), ours)
    except ValueError:
        return ours


def _by_one_name(raw: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, value in raw.items():
        name = ALIASES.get(key, key)
        if name in options:
            raise ConfigError(f"{key!r} is there twice, as {name!r} too")
        options[name] = value
    return options
