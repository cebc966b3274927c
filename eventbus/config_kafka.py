"""A Kafka cluster, as a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from .config_fields import (
    addresses,
    choice,
    client_options,
    flag,
    is_a_or_none,
    is_secret,
    number,
    optional_integer,
    optional_text,
)
from .config_tls import TlsConfig
from .errors import ConfigError
from .kafka_token import KafkaToken

DEFAULT_KAFKA_PORT = 9092
_KAFKA_REFUSED_FOR = {
    "set `brokers`": "bootstrap.servers metadata.broker.list",
    "set `client_name`": "client.id",
    "set `user` and `password`": "sasl.username sasl.password",
    "it follows from `tls`, `user` and `token`": "security.protocol",
    "set `tls.ca`": "ssl.ca.location ssl.ca.pem ssl_ca",
    "set `tls.certificate`": "ssl.certificate.location ssl.certificate.pem ssl_certificate",
    "set `tls.key`": "ssl.key.location ssl.key.pem ssl_key",
    "set `tls.verify`": "enable.ssl.certificate.verification",
    "set `group` of subscribe() or of the bus": "group.id",
    "set `group_protocol`": "group.protocol group.protocol.type",
    "set `start` of subscribe()": "auto.offset.reset",
    "set `create_topics`; a topic is made when it is first used, never by asking for it": "allow.auto.create.topics",
    "set `group_instance_id`": "group.instance.id",
    "cooperative-sticky is what the code for rebalances speaks": "partition.assignment.strategy",
    "an offset is committed when the handler has succeeded, never by itself": (
        "enable.auto.commit auto.commit.enable auto.commit.interval.ms enable.auto.offset.store "
        "offset.store.method offset.store.path offset.store.sync.interval.ms"
    ),
    "the end of a partition is not a message": "enable.partition.eof",
    "a message is stored once and in order because of it": (
        "enable.idempotence acks request.required.acks queuing.strategy enable.gapless.guarantee"
    ),
    "the bus gives each message its time, and sends it again": (
        "message.timeout.ms delivery.timeout.ms retries message.send.max.retries"
    ),
    "set `max_in_flight` and `max_in_flight_bytes` of the bus": (
        "queue.buffering.max.messages queue.buffering.max.kbytes"
    ),
    "every message needs its report": "delivery.report.only.error produce.offset.report",
    "publishing is not transactional": "transactional.id transaction.timeout.ms",
    "the callbacks and logs of the clients are the library's own": (
        "on_delivery on_commit logger log.queue opaque interceptors enabled_events statistics.interval.ms"
    ),
    "set its options themselves": "default.topic.config default_topic_conf",
}
_KAFKA_REFUSED = {key: reason for reason, keys in _KAFKA_REFUSED_FOR.items() for key in keys.split()}
_SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def is_cut(value: object) -> bool:
    """Whether librdkafka would leave out where a value begins: blanks in front of the text of an option."""
    return isinstance(value, str) and value[:1].isspace()


def _brokers(value: object) -> tuple[str, ...]:
    return addresses(value, "brokers", "kafka", DEFAULT_KAFKA_PORT)


@frozen(kw_only=True)
class KafkaConfig:
    """A Kafka cluster.

    brokers: "host", "host:port" or "[::1]:9092" of some of its brokers, kept as "host:port". user and
    password, with sasl_mechanism "PLAIN", "SCRAM-SHA-256" or "SCRAM-SHA-512"; or token, for OAUTHBEARER: a JWT or a
    KafkaToken. Password and token are a value or a function that returns one, asked at each connect, when a broker
    refuses what it returned before, and in time before a token expires; on a thread of its own, to return within
    `connect_timeout`. Any other mechanism is set in `common` as "sasl.mechanisms", without a user. tls: None for plain.
    create_topics: topics that are used and missing are created, with so many partitions and replicas;
    None leaves the number to the broker. group_protocol: "consumer" (KIP-848), "classic", or "auto" for the
    best that the broker has.
    stall_timeout: seconds for which publishes or a consumer may make no progress while the broker answers,
    until their client is replaced. commit_interval: seconds between two commits of what was handled: so much is handled
    again after a crash.
    group_instance_id: makes this process a static member of its groups, by the classic protocol: a name that no other
    process has at the same time, and that it has again when it is started again. A forked child has one of its own.
    common, producer, consumer, admin: raw options of librdkafka for all clients or one kind of them; the
    options of one kind win. Those that are the classic protocol's alone are left out under the other one.
    """

    brokers: tuple[str, ...] = field(default=("127.0.0.1:9092",), converter=_brokers)
    user: str | None = optional_text()
    password: str | Callable[[], str] | None = field(default=None, repr=False, validator=is_secret)
    token: str | KafkaToken | Callable[[], str | KafkaToken] | None = field(default=None, repr=False)
    sasl_mechanism: str = choice("PLAIN", *_SASL_MECHANISMS)
    tls: TlsConfig | None = field(default=None, validator=is_a_or_none(TlsConfig))
    client_name: str | None = optional_text()
    create_topics: bool = flag(True)
    partitions: int | None = optional_integer(None)
    replication_factor: int | None = optional_integer(None)
    group_protocol: str = choice("auto", "auto", "consumer", "classic")
    stall_timeout: float = number(30.0, above=True)
    commit_interval: float = number(0.1, above=True)
    group_instance_id: str | None = optional_text()
    common: Mapping[str, Any] = client_options(_KAFKA_REFUSED)
    producer: Mapping[str, Any] = client_options(_KAFKA_REFUSED)
    consumer: Mapping[str, Any] = client_options(_KAFKA_REFUSED)
    admin: Mapping[str, Any] = client_options(_KAFKA_REFUSED)

    @token.validator
    def _a_token(self, attribute: Any, value: object) -> None:
        if not isinstance(value, KafkaToken):
            is_secret(self, attribute, value)

    def __attrs_post_init__(self) -> None:
        if not self.brokers:
            raise ConfigError("brokers is empty: name at least one, for example '127.0.0.1:9092'")
        if (self.user is None) != (self.password is None):
            raise ConfigError("user and password go together")
        if self.token is not None and self.user is not None:
            raise ConfigError("set either user or token, not both")
        for name in ("user", "password", "group_instance_id"):
            if is_cut(getattr(self, name)):
                raise ConfigError(f"{name} begins with a blank, which librdkafka leaves out: take another one")
        if self.tls is not None and (self.tls.hostname is not None or self.tls.handshake_first):
            name = "hostname" if self.tls.hostname is not None else "handshake_first"
            why = "the name connected to is verified" if name == "hostname" else "its TLS always begins so"
            raise ConfigError(f"tls.{name} has no meaning for Kafka: {why}")
        if self.group_instance_id is not None and self.group_protocol == "consumer":
            raise ConfigError("group_instance_id needs the classic protocol: leave group_protocol 'auto', or 'classic'")
        for name in ("common", "producer", "consumer", "admin"):
            self._check_raw(name, getattr(self, name))

    def _check_raw(self, name: str, given: Mapping[str, Any]) -> None:
        for key in given.keys() & {"sasl.mechanism", "sasl.mechanisms"}:
            if (
                name != "common"
                or self.user is not None
                or self.token is not None
                or str(given[key]).upper() in _SASL_MECHANISMS
            ):
                raise ConfigError(
                    f"{name}[{key!r}] may not be set: set `sasl_mechanism`, user and password, or token; "
                    "in `common`, and without a user or token, it may name a mechanism of another kind"
                )
        for key in given.keys() & {"max.in.flight", "max.in.flight.requests.per.connection"}:
            if str(given[key]) not in ("1", "2", "3", "4", "5"):
                raise ConfigError(f"{name}[{key!r}] must be 1 to 5: with more of them the order is lost")
        for key in given.keys() & {"session.timeout.ms", "heartbeat.interval.ms"}:
            if self.group_protocol == "consumer":
                raise ConfigError(f"{name}[{key!r}] may not be set: with group_protocol 'consumer' the broker sets it")
