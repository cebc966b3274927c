"""Configuration: frozen values with the mission's defaults, validated at birth; the text names the setting."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import attrs
import pytest

from eventbus import (
    ConfigError,
    EventBusConfig,
    GuardConfig,
    HealthCheckConfig,
    KafkaConfig,
    MemoryConfig,
    NatsConfig,
    ReconnectConfig,
    RetryConfig,
    TlsConfig,
)

KINDS = [EventBusConfig, HealthCheckConfig, KafkaConfig, MemoryConfig, NatsConfig, ReconnectConfig, TlsConfig]
KINDS += [RetryConfig, GuardConfig]


def test_default_reconnect_config() -> None:
    config = EventBusConfig().reconnect
    assert (config.max_attempts, config.failure_threshold) == (10, 3)
    assert (config.initial_backoff, config.max_backoff, config.backoff_factor) == (1.0, 30.0, 2.0)
    assert (config.jitter, config.rebuild) == (0.1, "if_needed")


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_frozen_and_keyword_only(kind: type[Any]) -> None:
    value = kind()
    field = attrs.fields(kind)[0]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, field.name, getattr(value, field.name))
    with pytest.raises(TypeError):
        kind(getattr(value, field.name))


@pytest.mark.parametrize("kind", KINDS)
def test_no_setting_takes_just_anything(kind: type[Any]) -> None:
    """Each setting refuses an object of no known type, and the text names the setting."""
    for field in attrs.fields(kind):
        with pytest.raises(ConfigError, match=field.name):
            kind(**{field.name: object()})


BAD = [
    (ReconnectConfig, "max_attempts", [0, -1, 1.5, True, "many"]),
    (ReconnectConfig, "initial_backoff", [0, -1.0, float("nan"), float("inf"), "soon", None, True, 10**400]),
    (ReconnectConfig, "backoff_factor", [0.5, None, "x"]),
    (ReconnectConfig, "failure_threshold", [0, None, 2.5, "three"]),
    (ReconnectConfig, "jitter", [-0.1, 1.1, None]),
    (ReconnectConfig, "rebuild", ["never", None, 1]),
    (HealthCheckConfig, "enabled", ["maybe", None, 2, 1]),
    (HealthCheckConfig, "interval", [0, None, -5]),
    (HealthCheckConfig, "retry_interval", [0, -1, "x"]),
    (MemoryConfig, "partitions", [0, "x", None]),
    (MemoryConfig, "name", ["a\nb", None, 7]),
    (NatsConfig, "servers", [(), "", 7, [7], None]),
    (NatsConfig, "ack_wait", [0.1, None]),
    (NatsConfig, "stream", ["x", 7, {1: 2}, {"no_ack": True}, {"sealed": True}, {"subjects": ["a"]}]),
    (NatsConfig, "consumer", [{"ack_policy": "none"}, {"max_deliver": 3}, None]),
    (NatsConfig, "password", [7, b"x"]),
    *((NatsConfig, name, ["", "a.b", "a b", "a*", 7]) for name in ("stream_name", "domain", "durable")),
    (NatsConfig, "durable", ["{topic}.x", "{other} x", b"x"]),
    *((NatsConfig, name, ["", "a..b", ".a", "a.", "a.>", "a b", 7]) for name in ("api_prefix", "inbox_prefix")),
    (NatsConfig, "inbox_prefix", [None]),
    (NatsConfig, "token", [7]),
    (NatsConfig, "tls", [True, "yes", {}]),
    (KafkaConfig, "brokers", [(), "", 7, [7], None, {"a"}]),
    (KafkaConfig, "user", [7, "a\nb"]),
    (KafkaConfig, "password", [7, b"x"]),
    (KafkaConfig, "sasl_mechanism", ["plain", "GSSAPI", None]),
    (KafkaConfig, "tls", [True, {}]),
    (KafkaConfig, "partitions", [0, -1, 1.5, "x", True]),
    (KafkaConfig, "replication_factor", [0, "x", False]),
    (KafkaConfig, "group_protocol", ["kip848", None, "Classic"]),
    (KafkaConfig, "stall_timeout", [0, None, -1.0]),
    (KafkaConfig, "create_topics", [None, 1, "perhaps"]),
    *((KafkaConfig, name, ["x", 7, None, [("a", 1)], {1: 2}]) for name in ("common", "producer", "consumer", "admin")),
    (EventBusConfig, "backend", [None, "memory", {}]),
    (EventBusConfig, "group", ["", "a b", "a\r\nb", 7, "g" * 65]),
    (EventBusConfig, "reconnect", [None, {}, 3]),
    (EventBusConfig, "health_check", [None, {}, True]),
    (EventBusConfig, "on_outage", ["panic", None]),
    (EventBusConfig, "on_fork", ["panic", None]),
    (EventBusConfig, "max_in_flight", [0, None, 1.5]),
    (EventBusConfig, "name", ["a\rb", None]),
]


@pytest.mark.parametrize(("kind", "name", "value"), [(kind, name, bad) for kind, name, values in BAD for bad in values])
def test_a_bad_value_is_refused_by_name(kind: type[Any], name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        kind(**{name: value})


def test_text_forms_are_taken() -> None:
    config = ReconnectConfig(max_attempts="none", initial_backoff="0.5", failure_threshold="4")
    assert (config.max_attempts, config.initial_backoff, config.failure_threshold) == (None, 0.5, 4)
    assert HealthCheckConfig(enabled="off", retry_interval="2").enabled is False
    assert NatsConfig(servers="a:1, b:2,").servers == ("a:1", "b:2")
    assert type(ReconnectConfig(initial_backoff=2).initial_backoff) is float


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="max_backoff"):
        ReconnectConfig(initial_backoff=60)
    with pytest.raises(ConfigError, match="token"):
        NatsConfig(token="t", user="u", password="p")
    with pytest.raises(ConfigError, match="password"):
        NatsConfig(user="u")
    with pytest.raises(ConfigError, match="certificate"):
        TlsConfig(key="k.pem")


def test_secrets_are_not_shown() -> None:
    shown = repr(EventBusConfig(backend=NatsConfig(user="u", password="hunter2"))) + repr(NatsConfig(token="t0ken"))
    assert "hunter2" not in shown
    assert "t0ken" not in shown


DEFAULTS: dict[type[Any], dict[str, object]] = {
    ReconnectConfig: {
        "max_attempts": 10,
        "initial_backoff": 1.0,
        "max_backoff": 30.0,
        "backoff_factor": 2.0,
        "failure_threshold": 3,
        "jitter": 0.1,
        "rebuild": "if_needed",
    },
    HealthCheckConfig: {"enabled": True, "interval": 5.0, "timeout": 2.0, "retry_interval": None},
    TlsConfig: {
        "ca": None,
        "certificate": None,
        "key": None,
        "hostname": None,
        "verify": True,
        "handshake_first": False,
    },
    MemoryConfig: {"name": "default", "partitions": 8, "max_messages": 1_000_000},
    NatsConfig: {
        "servers": ("127.0.0.1:4222",),
        "user": None,
        "password": None,
        "token": None,
        "credentials": None,
        "nkey": None,
        "jwt": None,
        "tls": None,
        "client_name": None,
        "jetstream": True,
        "ack_wait": 10.0,
        "ping_interval": 10.0,
        "max_pings_out": 2,
        "stream": {},
        "consumer": {},
        "create_streams": True,
        "stream_name": None,
        "durable": None,
        "domain": None,
        "api_prefix": None,
        "inbox_prefix": "_INBOX",
    },
    KafkaConfig: {
        "brokers": ("127.0.0.1:9092",),
        "user": None,
        "password": None,
        "token": None,
        "sasl_mechanism": "PLAIN",
        "tls": None,
        "client_name": None,
        "create_topics": True,
        "partitions": None,
        "replication_factor": None,
        "group_protocol": "auto",
        "stall_timeout": 30.0,
        "commit_interval": 0.1,
        "group_instance_id": None,
        "common": {},
        "producer": {},
        "consumer": {},
        "admin": {},
    },
    RetryConfig: {
        "max_attempts": 5,
        "initial_backoff": 0.1,
        "max_backoff": 5.0,
        "backoff_factor": 2.0,
        "jitter": 0.1,
        "retry_on": (BaseException,),
        "give_up_on": (),
    },
    GuardConfig: {
        "enabled": True,
        "share": 0.5,
        "window": 200,
        "least": 20,
        "initial_pause": 10.0,
        "max_pause": 60.0,
    },
    EventBusConfig: {
        "backend": MemoryConfig(),
        "name": "bus",
        "group": None,
        "reconnect": ReconnectConfig(),
        "health_check": HealthCheckConfig(),
        "connect_timeout": 5.0,
        "publish_timeout": 15.0,
        "close_timeout": 10.0,
        "max_in_flight": 100_000,
        "max_in_flight_bytes": 64 * 1024 * 1024,
        "prefetch": 1024,
        "prefetch_bytes": 32 * 1024 * 1024,
        "max_prefetch_bytes": 256 * 1024 * 1024,
        "on_outage": "wait",
        "on_fork": "reopen",
        "retry": RetryConfig(),
        "guard": GuardConfig(),
        "handler_timeout": None,
    },
}
"""Design section 3, `Defaults`, and what stands in the docstrings."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_has_the_default_that_was_promised(kind: type[Any]) -> None:
    assert {field.name: getattr(kind(), field.name) for field in attrs.fields(kind)} == DEFAULTS[kind]


NUMBERS = [
    (kind, name, default)
    for kind, defaults in DEFAULTS.items()
    for name, default in defaults.items()
    if type(default) in (int, float) or name == "retry_interval"
]


@pytest.mark.parametrize(("kind", "name", "default"), NUMBERS)
def test_no_number_is_nan_infinite_negative_or_a_bool(kind: type[Any], name: str, default: object) -> None:
    bad: list[object] = [
        math.nan,
        math.inf,
        -math.inf,
        -1,
        -0.001,
        True,
        False,
        "nan",
        "inf",
        "-1",
        "1e999",
        b"1",
        "1 s",
    ]
    if type(default) is int:
        bad += [0, 1.5, "1.5", "0x10"]
    for value in bad:
        with pytest.raises(ConfigError, match=name):
            kind(**{name: value})


@pytest.mark.parametrize(("kind", "name", "default"), NUMBERS)
def test_a_number_may_come_as_text_and_keeps_its_type(kind: type[Any], name: str, default: object) -> None:
    beside = {"window": {"least": 1}, "max_pause": {"initial_pause": 1}}.get(name, {})  # what else must be small
    value = getattr(kind(**{name: "1", **beside}), name)
    assert (value, type(value)) == (1, int if type(default) is int else float)


FLAGS = [
    (kind, name)
    for kind, defaults in DEFAULTS.items()
    for name, default in defaults.items()
    if default in (True, False) and type(default) is bool
]


@pytest.mark.parametrize(("kind", "name"), FLAGS)
def test_a_flag_is_a_bool_or_one_of_eight_words(kind: type[Any], name: str) -> None:
    for word in ("1", "true", "yes", "on", "TRUE", True):
        assert getattr(kind(**{name: word}), name) is True
    for word in ("0", "false", "no", "off", "Off", False):
        assert getattr(kind(**{name: word}), name) is False
    for bad in ("", "2", "y", "none", 0, 1, None):
        with pytest.raises(ConfigError, match=name):
            kind(**{name: bad})


@pytest.mark.parametrize(
    ("setting", "key", "reason"),
    [
        ("stream", "name", "found by its subjects"),
        ("stream", "subjects", "follow from the topics"),
        ("stream", "no_ack", "no publish can be confirmed"),
        ("stream", "sealed", "takes no messages"),
        ("consumer", "durable_name", "follows from the group"),
        ("consumer", "name", "follows from the group"),
        ("consumer", "ack_policy", "explicit acknowledgement"),
        ("consumer", "ack_wait", "renewals depend on it"),
        ("consumer", "max_deliver", "dead letter"),
        ("consumer", "filter_subject", "follows from the topic"),
        ("consumer", "filter_subjects", "follow from the topic"),
        ("consumer", "deliver_subject", "pull consumers"),
        ("consumer", "deliver_policy", "subscribe"),
    ],
)
def test_a_raw_option_that_a_guarantee_rests_on_is_refused_with_the_reason(setting: str, key: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"{setting}\['{key}'\] may not be set: .*{reason}"):
        NatsConfig(**{setting: {key: None}})
    assert getattr(NatsConfig(**{setting: {"metadata": {"a": "b"}}}), setting) == {"metadata": {"a": "b"}}


def test_raw_options_are_a_copy() -> None:
    given = {"num_replicas": 1}
    config = NatsConfig(stream=given)
    given["num_replicas"] = 3
    assert config.stream == {"num_replicas": 1}


@pytest.mark.parametrize(
    "url", ["nats://u:hunter2@h:4222", "u:hunter2@h", "nats://hunter2@h", "nats://u:hunter2://x@h"]
)
def test_credentials_in_a_server_s_url_are_not_shown(url: str) -> None:
    config = EventBusConfig(backend=NatsConfig(servers=("a:1", url)))
    assert "hunter2" not in repr(config)
    assert "'a:1'" in repr(config)
    assert "***@h" in repr(config)
    assert config.backend == NatsConfig(servers=["a:1", url]), "it is only the text that hides them"


@pytest.mark.parametrize("front", ["", "nats://", "tls://", "nats://u:hunter2@", "u:hunter2@", "TLS://hunter2@"])
@pytest.mark.parametrize(
    "place",
    [
        "h:x",
        "h:99999",
        "h:0",
        "h:",
        "h:+1",
        "h:4222#x",
        "h#x",
        "h/x",
        "h?x=1",
        "h x",
        "",
        "[::1",
        "[::g]",
        "::1:x",
        "[h]",
    ],
)
def test_a_malformed_server_is_refused_at_birth(front: str, place: str) -> None:
    with pytest.raises(ConfigError, match="servers: ") as caught:
        NatsConfig(servers=["a:1", front + place])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("front", ["", "nats://", "tls://", "nats://u:p@", "tls://to%2Fken@", "u:p@"])
@pytest.mark.parametrize("place", ["h", "h:1", "h:65535", "10.0.0.1:4222", "[::1]", "[::1]:4222", "::1", "h/"])
def test_a_server_stays_as_it_was_written(front: str, place: str) -> None:
    assert NatsConfig(servers=front + place).servers == (front + place,)


@pytest.mark.parametrize(
    "server",
    ["http://u:hunter2@h", "nats://u:hunter2", "u:hunter2", "u:a:hunter2", "u:hunter2://h", "nats://u:hunter2,x@h"],
)
def test_a_server_that_is_refused_shows_no_credentials(server: str) -> None:
    with pytest.raises(ConfigError, match="servers: ") as caught:
        NatsConfig(servers=server)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "settings",
    [{"servers": ["nats://u:hunter2@h", 5]}, {"servers": {"u:hunter2@h"}}, {"password": ["hunter2"], "user": "u"}],
)
def test_a_refused_secret_is_not_in_the_text(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        NatsConfig(**settings)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_settings_are_equal_values_and_cross_processes(kind: type[Any]) -> None:
    assert kind() == kind()
    assert pickle.loads(pickle.dumps(kind())) == copy.deepcopy(kind()) == kind()
