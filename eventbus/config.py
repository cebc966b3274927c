"""Configuration as frozen values, validated at birth. Times are float seconds, sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from .config_fields import (
    checked_text,
    choice,
    flag,
    integer,
    is_a,
    is_a_or_none,
    number,
    optional_integer,
    optional_number,
    optional_text,
    options,
    secret,
    text,
    texts,
    without_credentials,
)
from .errors import ConfigError
from .message import check_group

DEFAULT_NATS_PORT = 4222


@frozen(kw_only=True)
class ReconnectConfig:
    """How a lost broker is tried again.

    max_attempts: attempts in one episode, None for no limit. initial_backoff, max_backoff: seconds.
    backoff_factor: growth from one pause to the next. failure_threshold: failed probes in a row that
    start an episode. jitter: the part of a pause that chance may cut off, 0 to 1; it only shortens.
    rebuild: "if_needed" keeps clients that came back by themselves, "always" replaces them.
    """

    max_attempts: int | None = optional_integer(10)
    initial_backoff: float = number(1.0, above=True)
    max_backoff: float = number(30.0, above=True)
    backoff_factor: float = number(2.0, low=1.0)
    failure_threshold: int = integer(3)
    jitter: float = number(0.1, high=1.0)
    rebuild: str = choice("if_needed", "if_needed", "always")

    def __attrs_post_init__(self) -> None:
        if self.max_backoff < self.initial_backoff:
            raise ConfigError(
                f"max_backoff ({self.max_backoff:g} s) is less than initial_backoff ({self.initial_backoff:g} s)"
            )


@frozen(kw_only=True)
class HealthCheckConfig:
    """How the broker is watched.

    enabled: `open()` starts the health check. interval: seconds between probes. timeout: seconds that a
    probe may take. retry_interval: seconds to the next probe after a failed one, None for the backend's.
    """

    enabled: bool = flag(True)
    interval: float = number(5.0, above=True)
    timeout: float = number(2.0, above=True)
    retry_interval: float | None = optional_number(None)


@frozen(kw_only=True)
class TlsConfig:
    """How a TLS connection is made: verified, unless `verify=False` is asked for by name.

    ca: path of a PEM file with the authorities to trust, None for the system's.
    certificate, key: paths of the client certificate (PEM) and its key, for servers that ask for one.
    hostname: the name to verify, None for the one connected to.
    handshake_first: TLS before the server's first line, for servers set up so.
    """

    ca: str | None = optional_text()
    certificate: str | None = optional_text()
    key: str | None = optional_text()
    hostname: str | None = optional_text()
    verify: bool = flag(True)
    handshake_first: bool = flag(False)

    def __attrs_post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise ConfigError("tls.key is set without tls.certificate")


@frozen(kw_only=True)
class MemoryConfig:
    """A broker inside this process. Buses that give the same name share it.

    partitions: slices of a topic, the most members that can share a group's work. max_messages: kept per
    topic; the oldest that every group has acknowledged go first, and while none can go, publishing is
    answered as not sent.
    """

    name: str = text("default")
    partitions: int = integer(8)
    max_messages: int = integer(1_000_000)


_STREAM_REFUSED = {
    "name": "the stream is found by its subjects, or named after the topic's first part",
    "subjects": "they follow from the topics",
    "no_ack": "without acknowledgement no publish can be confirmed",
    "sealed": "a sealed stream takes no messages",
}
_CONSUMER_REFUSED = {
    "durable_name": "it follows from the group and the topic",
    "name": "it follows from the group and the topic",
    "ack_policy": "messages leave by explicit acknowledgement only",
    "ack_wait": "set `ack_wait` of the NATS configuration: the renewals depend on it",
    "max_deliver": "a message leaves only by success or by a confirmed dead letter",
    "filter_subject": "it follows from the topic",
    "filter_subjects": "they follow from the topic",
    "deliver_subject": "consumers are pull consumers",
    "deliver_policy": "set `start` of subscribe()",
}


@frozen(kw_only=True)
class NatsConfig:
    """A NATS server or cluster.

    servers: "host", "host:port", "[::1]:4222" or nats:// and tls:// URLs, tried in order from a random one
    on; servers that the cluster announces are added. user and password, or token. tls: None for plain
    unless the server demands it or the URL says tls://.
    jetstream: durable topics with confirmed publishes; False for core NATS, which stores nothing.
    ack_wait: seconds after which the server gives an unacknowledged message to another process; it is
    renewed for everything in hand. stream, consumer: raw settings for streams and durables that are created.
    ping_interval, max_pings_out: the link is dropped when so many PINGs are unanswered.
    """

    servers: tuple[str, ...] = field(default=("127.0.0.1:4222",), converter=texts, repr=without_credentials)
    user: str | None = optional_text()
    password: str | None = secret()
    token: str | None = secret()
    tls: TlsConfig | None = field(default=None, validator=is_a_or_none(TlsConfig))
    client_name: str | None = optional_text()
    jetstream: bool = flag(True)
    ack_wait: float = number(10.0, low=0.5)
    ping_interval: float = number(10.0, above=True)
    max_pings_out: int = integer(2)
    stream: Mapping[str, Any] = options(_STREAM_REFUSED)
    consumer: Mapping[str, Any] = options(_CONSUMER_REFUSED)

    def __attrs_post_init__(self) -> None:
        if not self.servers:
            raise ConfigError("servers is empty: name at least one, for example '127.0.0.1:4222'")
        if self.token is not None and self.user is not None:
            raise ConfigError("set either token or user and password, not both")
        if (self.user is None) != (self.password is None):
            raise ConfigError("user and password go together; a token has a setting of its own")


BackendConfig = MemoryConfig | NatsConfig


@frozen(kw_only=True)
class EventBusConfig:
    """Everything about a bus. See `eventbus.config_sources` for URLs, mappings and the environment.

    backend: a MemoryConfig or NatsConfig. name: shown in thread names and logs. group: for subscriptions
    that name none. connect_timeout, publish_timeout, close_timeout: the defaults of the calls' `timeout`.
    max_in_flight, max_in_flight_bytes: publishes accepted and unanswered. on_outage: "wait" holds publishes
    while there is no connection, "raise" fails them at once as not sent.
    """

    backend: BackendConfig = field(factory=MemoryConfig)
    name: str = text("bus")
    group: str | None = checked_text(None, check_group)
    reconnect: ReconnectConfig = field(factory=ReconnectConfig, validator=is_a(ReconnectConfig))
    health_check: HealthCheckConfig = field(factory=HealthCheckConfig, validator=is_a(HealthCheckConfig))
    connect_timeout: float = number(5.0, above=True)
    publish_timeout: float = number(15.0, above=True)
    close_timeout: float = number(10.0, above=True)
    max_in_flight: int = integer(100_000)
    max_in_flight_bytes: int = integer(64 * 1024 * 1024)
    on_outage: str = choice("wait", "wait", "raise")

    @backend.validator
    def _known_backend(self, attribute: object, value: object) -> None:
        if not isinstance(value, (MemoryConfig, NatsConfig)):
            raise ConfigError(f"backend must be a MemoryConfig or NatsConfig, not {type(value).__name__}")
