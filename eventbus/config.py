"""Configuration as frozen values, validated at birth. Times are float seconds, sizes are bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from .config_delivery import GuardConfig, RetryConfig
from .config_fields import (
    checked_text,
    choice,
    flag,
    integer,
    is_a,
    is_a_or_none,
    is_secret,
    number,
    optional_integer,
    optional_number,
    optional_text,
    options,
    secret,
    server_urls,
    text,
)
from .config_kafka import KafkaConfig
from .config_tls import TlsConfig
from .errors import ConfigError
from .names import KAFKA_NAMES, OUR_NAMES, NameRules, names_apart

DEFAULT_NATS_PORT = 4222
NATS_SCHEMES = ("nats", "tls")


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

_NATS_NAME = re.compile(r"[^\s.*>/\\\x00-\x1f\x7f]{1,255}")
"""Of a stream, a durable or a domain."""
_SEED = re.compile(r"SU[A-Z2-7]{56}")
_NATS_PREFIX = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(?:\.[^\s.*>\x00-\x1f\x7f]+)*")


def _check_nats_name(value: object) -> str:
    if not isinstance(value, str) or not _NATS_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no name on NATS: 1 to 255 characters, no blanks, dots, slashes or wildcards")
    return value


def _check_prefix(value: object) -> str:
    if not isinstance(value, str) or not _NATS_PREFIX.fullmatch(value):
        raise ValueError(
            f"{value!r} is no beginning of a subject: parts with dots between them, no blanks or wildcards"
        )
    return value


def _check_durable(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    _check_nats_name(value.replace("{group}", "g").replace("{topic}", "t"))
    return value


@frozen(kw_only=True)
class NatsConfig:
    """A NATS server or cluster.

    servers: "host", "host:port", "[::1]:4222" or nats:// and tls:// URLs, tried in order from a random one
    on; servers that the cluster announces are added. user and password, or one of these, read or asked for anew at
    each connect: token; credentials, the path of a .creds file; nkey, the seed of a user, with its jwt where the server
    wants one. Each of these is a text or a function that returns it (`credentials`: the content of such a file),
    called on a thread of its own, to return within `connect_timeout`. tls: None for plain unless the server demands it
    or the URL says tls://.
    jetstream: durable topics with confirmed publishes; False for core NATS, which stores nothing.
    ack_wait: seconds after which the server gives an unacknowledged message to another process; it is
    renewed for everything in hand. stream, consumer: raw settings for streams and durables that are created.
    create_streams: whether a stream is made for a topic that has none. stream_name: the one stream that all topics of
    this bus are in; it is not looked for. durable: the name of a group's durable in place of one that follows from
    group and topic; `{group}` and `{topic}` in it stand for them.
    domain: the JetStream domain, or api_prefix: what the subjects of its API begin with, where it is imported under
    another name. inbox_prefix: what the subjects begin with on which answers come.
    ping_interval, max_pings_out: the link is dropped when so many PINGs are unanswered.
    """

    servers: tuple[str, ...] = server_urls(f"127.0.0.1:{DEFAULT_NATS_PORT}", NATS_SCHEMES, DEFAULT_NATS_PORT)
    user: str | None = optional_text()
    password: str | None = secret()
    token: str | Callable[[], str] | None = field(default=None, repr=False, validator=is_secret)
    credentials: str | Callable[[], str] | None = field(default=None, repr=False, validator=is_secret)
    nkey: str | Callable[[], str] | None = field(default=None, repr=False, validator=is_secret)
    jwt: str | Callable[[], str] | None = field(default=None, repr=False, validator=is_secret)
    tls: TlsConfig | None = field(default=None, validator=is_a_or_none(TlsConfig))
    client_name: str | None = optional_text()
    jetstream: bool = flag(True)
    ack_wait: float = number(10.0, low=0.5)
    ping_interval: float = number(10.0, above=True)
    max_pings_out: int = integer(2)
    stream: Mapping[str, Any] = options(_STREAM_REFUSED)
    consumer: Mapping[str, Any] = options(_CONSUMER_REFUSED)
    create_streams: bool = flag(True)
    stream_name: str | None = checked_text(None, _check_nats_name)
    durable: str | None = checked_text(None, _check_durable)
    domain: str | None = checked_text(None, _check_nats_name)
    api_prefix: str | None = checked_text(None, _check_prefix)
    inbox_prefix: str = checked_text("_INBOX", _check_prefix)

    @property
    def jetstream_api(self) -> str:
        """What the subjects of JetStream's API begin with."""
        return self.api_prefix or (f"$JS.{self.domain}.API" if self.domain else "$JS.API")

    @property
    def own_subjects(self) -> tuple[str, ...]:
        """What no topic begins with: requests and answers go there, which a stream of such topics would take as well.

        Streams that are made have all topics of one first part.
        """
        subjects = self.inbox_prefix, self.jetstream_api
        makes_streams = self.jetstream and self.create_streams
        return tuple(one.partition(".")[0] for one in subjects) if makes_streams else subjects

    def __attrs_post_init__(self) -> None:
        if self.domain and self.api_prefix:
            raise ConfigError("set either domain or api_prefix, not both: a domain is the prefix $JS.<domain>.API")
        ways = (("user", self.user), ("token", self.token), ("credentials", self.credentials))
        given = [name for name, value in (*ways, ("nkey or jwt", self.nkey or self.jwt)) if value is not None]
        if len(given) > 1:
            raise ConfigError(f"set either {' or '.join(given)}, not both")
        if isinstance(self.credentials, str) and ("\n" in self.credentials or "-----BEGIN" in self.credentials):
            raise ConfigError("credentials is the path of a .creds file: a function may return its content")
        if isinstance(self.nkey, str) and not _SEED.fullmatch(self.nkey.strip()):
            raise ConfigError("nkey is no seed of a user: that begins with SU, and has 58 characters")  # and is secret
        if (self.user is None) != (self.password is None):
            raise ConfigError("user and password go together; a token has a setting of its own")


BackendConfig = MemoryConfig | NatsConfig | KafkaConfig


def names_of(backend: BackendConfig) -> NameRules:
    """What topics and groups may be called there."""
    if isinstance(backend, NatsConfig):
        return names_apart(*backend.own_subjects)
    return KAFKA_NAMES if isinstance(backend, KafkaConfig) else OUR_NAMES


@frozen(kw_only=True)
class EventBusConfig:
    """Everything about a bus. See `eventbus.config_sources` for URLs, mappings and the environment.

    backend: a MemoryConfig, NatsConfig or KafkaConfig. name: shown in thread names and logs. group: for subscriptions
    that name none. connect_timeout, publish_timeout, close_timeout: the defaults of the calls' `timeout`.
    max_in_flight, max_in_flight_bytes: publishes accepted and unanswered. prefetch, prefetch_bytes: messages and bytes
    of payload that one subscription has in hand, about, before no more are fetched for it. max_prefetch_bytes: the same
    for all subscriptions together.
    on_outage: "wait" holds publishes while there is no connection, "raise" fails them at once as not sent.
    on_fork: what a forked child does with its copy of an open bus: "reopen" connects anew at its first use there, with
    those subscriptions that are made `in_children`; "raise" has its calls raise ForkedError.
    retry: how messages are tried again whose handler has failed. guard: when dead letters are held. handler_timeout:
    seconds after which a handler that still runs is reported, with where it stands; None: never.
    """

    backend: BackendConfig = field(factory=MemoryConfig)
    name: str = text("bus")
    group: str | None = field(default=None)
    reconnect: ReconnectConfig = field(factory=ReconnectConfig, validator=is_a(ReconnectConfig))
    health_check: HealthCheckConfig = field(factory=HealthCheckConfig, validator=is_a(HealthCheckConfig))
    connect_timeout: float = number(5.0, above=True)
    publish_timeout: float = number(15.0, above=True)
    close_timeout: float = number(10.0, above=True)
    max_in_flight: int = integer(100_000)
    max_in_flight_bytes: int = integer(64 * 1024 * 1024)
    prefetch: int = integer(1024)
    prefetch_bytes: int = integer(32 * 1024 * 1024)
    max_prefetch_bytes: int = integer(256 * 1024 * 1024)
    on_outage: str = choice("wait", "wait", "raise")
    on_fork: str = choice("reopen", "reopen", "raise")
    retry: RetryConfig = field(factory=RetryConfig, validator=is_a(RetryConfig))
    guard: GuardConfig = field(factory=GuardConfig, validator=is_a(GuardConfig))
    handler_timeout: float | None = optional_number(None)

    @backend.validator
    def _known_backend(self, attribute: object, value: object) -> None:
        if not isinstance(value, (MemoryConfig, NatsConfig, KafkaConfig)):
            kind = type(value).__name__
            raise ConfigError(f"backend must be a MemoryConfig, NatsConfig or KafkaConfig, not {kind}")

    @group.validator
    def _legal_group(self, attribute: object, value: object) -> None:
        try:
            if value is not None:
                names_of(self.backend).group(value)
        except ValueError as error:
            raise ConfigError(f"group: {error}") from error
