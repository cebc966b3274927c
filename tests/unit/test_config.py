"""Configuration: frozen values with the mission's defaults, validated at birth; the text names the setting."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from eventbus import (
    ConfigError,
    EventBusConfig,
    HealthCheckConfig,
    MemoryConfig,
    NatsConfig,
    ReconnectConfig,
    TlsConfig,
)

KINDS = [EventBusConfig, HealthCheckConfig, MemoryConfig, NatsConfig, ReconnectConfig, TlsConfig]


def test_default_reconnect_config() -> None:
    config = EventBusConfig().reconnect
    assert (config.max_attempts, config.failure_threshold) == (10, 3)
    assert (config.initial_backoff, config.max_backoff, config.backoff_factor) == (1.0, 30.0, 2.0)
    assert (config.jitter, config.rebuild) == (0.1, "if_needed")


def test_the_other_defaults() -> None:
    config = EventBusConfig()
    assert (config.connect_timeout, config.publish_timeout, config.close_timeout) == (5.0, 15.0, 10.0)
    assert (config.max_in_flight, config.max_in_flight_bytes) == (100_000, 64 * 1024 * 1024)
    assert (config.on_outage, config.group, config.name) == ("wait", None, "bus")
    check = config.health_check
    assert (check.enabled, check.interval, check.timeout, check.retry_interval) == (True, 5.0, 2.0, None)
    assert TlsConfig().verify


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
    (NatsConfig, "token", [7]),
    (NatsConfig, "tls", [True, "yes", {}]),
    (EventBusConfig, "backend", [None, "memory", {}]),
    (EventBusConfig, "group", ["", "a b", "a\r\nb", 7, "g" * 65]),
    (EventBusConfig, "reconnect", [None, {}, 3]),
    (EventBusConfig, "health_check", [None, {}, True]),
    (EventBusConfig, "on_outage", ["panic", None]),
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
