"""Every setting from the environment: arguments win over the URL, the URL over the environment."""

from __future__ import annotations

import traceback
from typing import Any

import attrs
import pytest

from eventbus import (
    ConfigError,
    EventBus,
    EventBusConfig,
    GuardConfig,
    HealthCheckConfig,
    KafkaConfig,
    MemoryConfig,
    NatsConfig,
    ReconnectConfig,
    RetryConfig,
    TlsConfig,
    get_default_nats_config,
    load_config,
)
from eventbus.config_sources import settings_named

SECRET = "hunter2"
Environment = pytest.MonkeyPatch


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    return monkeypatch


def set_all(environment: Environment, **variables: str) -> None:
    for name, value in variables.items():
        environment.setenv(f"EVENTBUS_{name}", value)


VALUES: dict[str, tuple[str, object]] = {
    "rebuild": ("always", "always"),
    "on_outage": ("raise", "raise"),
    "on_fork": ("raise", "raise"),
    "max_attempts": ("none", None),
    "retry_interval": ("0.5", 0.5),
    "sasl_mechanism": ("SCRAM-SHA-256", "SCRAM-SHA-256"),
    "group_protocol": ("classic", "classic"),
    "servers": ("a:1,b:2", ("a:1", "b:2")),
    "brokers": ("a:1,b:2", ("a:1", "b:2")),
    "jitter": ("0.5", 0.5),
    "share": ("0.25", 0.25),
    "handler_timeout": ("1.5", 1.5),
    "retry_on": ("OSError, ValueError", (OSError, ValueError)),
    "give_up_on": ("builtins:KeyError", (KeyError,)),
    "window": ("77", 77),
    "max_pause": ("77", 77.0),
    **{name: ('{"x": 5}', {"x": 5}) for name in ("stream", "consumer", "common", "producer", "admin")},
    "nkey": (f"SU{'A' * 56}", f"SU{'A' * 56}"),
}
"""The text of a variable and what it means, where they do not follow from the default."""
WITH = {
    "user": {"PASSWORD": "p"},
    "password": {"USER": "u"},
    "key": {"TLS__CERTIFICATE": "c.pem"},
    "max_backoff": {"RECONNECT__INITIAL_BACKOFF": "0.1"},
}
GROUPS: dict[str, type[Any]] = {"reconnect": ReconnectConfig, "health_check": HealthCheckConfig, "tls": TlsConfig}
GROUPS |= {"retry": RetryConfig, "guard": GuardConfig}


def wanted(name: str, default: object) -> tuple[str, object]:
    if name in VALUES:
        return VALUES[name]
    if isinstance(default, bool):
        return str(not default).lower(), not default
    if isinstance(default, float):
        return "1.5", 1.5
    if isinstance(default, int) or name in ("partitions", "replication_factor"):
        return "7", 7
    return "other", "other"


def every_setting() -> list[tuple[str, str | None, str, str, object]]:
    places: list[tuple[str, str | None, type[Any], set[str]]] = [
        ("memory://x", None, EventBusConfig, {"backend", *GROUPS}),
        ("memory://x", None, MemoryConfig, {"name"}),
        ("nats://", None, NatsConfig, {"tls"}),
        ("kafka://", None, KafkaConfig, {"tls"}),
        *(("nats://h", group, kind, set[str]()) for group, kind in GROUPS.items()),
    ]
    return [
        (url, group, field.name, *wanted(field.name, getattr(kind(), field.name)))
        for url, group, kind, without in places
        for field in attrs.fields(kind)
        if field.name not in without
    ]


@pytest.mark.parametrize(("url", "group", "name", "text", "value"), every_setting())
def test_every_setting_has_a_variable(
    url: str, group: str | None, name: str, text: str, value: object, environment: Environment
) -> None:
    plain = load_config(url)
    variable = (f"{group}__{name}" if group else name).upper()
    set_all(environment, **WITH.get(name, {}), **{variable: text})
    config: Any = load_config(url)
    holder = config if hasattr(config, group or name) else config.backend
    found = getattr(getattr(holder, group) if group else holder, name)
    assert (found, type(found)) == (value, type(value))
    assert config != plain
    set_all(environment, URL=url)
    assert load_config() == load_config({}) == config


def test_the_url_wins_over_the_environment_and_arguments_over_both(environment: Environment) -> None:
    set_all(environment, URL="nats://env?group=url", GROUP="env", NAME="env", RECONNECT__MAX_ATTEMPTS="5", ACK_WAIT="5")
    assert (load_config().group, load_config().name) == ("url", "env")
    assert load_config({"group": "argument"}).group == "argument"
    assert load_config({"group": None}).group is None
    given = load_config({"url": "nats://h?reconnect.jitter=0&ack_wait=6", "reconnect": {"initial_backoff": 2}})
    assert given.reconnect == ReconnectConfig(max_attempts=5, jitter=0, initial_backoff=2)
    assert given.backend == NatsConfig(servers=("nats://h",), ack_wait=6)
    assert load_config("nats://h?reconnect.max_attempts=6").reconnect.max_attempts == 6
    assert EventBus("memory://x").config.reconnect.max_attempts == 5


def test_the_backend_may_stand_there_without_a_url(environment: Environment) -> None:
    set_all(environment, BACKEND="nats", SERVERS="a,b", USER="u", PASSWORD="p", TLS__CA="/ca.pem")
    tls = TlsConfig(ca="/ca.pem")
    assert load_config().backend == NatsConfig(servers=("a", "b"), user="u", password="p", tls=tls)
    assert load_config("memory://x").backend == MemoryConfig(name="x"), "what is there for others is no concern of it"
    assert load_config({"backend": "kafka"}).backend == KafkaConfig(user="u", password="p", tls=tls)
    set_all(environment, URL="nats://h")
    assert load_config({"url": "nats://i"}).backend.servers == ("nats://i",)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="either EVENTBUS_URL or EVENTBUS_BACKEND"):
        load_config()
    environment.delenv("EVENTBUS_URL")
    set_all(environment, BACKEND="redis")
    with pytest.raises(ConfigError, match="redis"):
        load_config()


def test_credentials_are_taken_together(environment: Environment) -> None:
    set_all(environment, USER="u", PASSWORD="p")
    assert load_config("nats://t@h").backend == NatsConfig(servers=("nats://h",), token="t")
    assert load_config("kafka://h?user=v").backend == KafkaConfig(brokers="h", user="v", password="p")
    environment.delenv("EVENTBUS_USER")
    environment.delenv("EVENTBUS_PASSWORD")
    set_all(environment, TOKEN="t")
    assert load_config("nats://u:p@h").backend == NatsConfig(servers=("nats://h",), user="u", password="p")
    assert load_config("nats://h").backend == NatsConfig(servers=("nats://h",), token="t")


def test_what_is_finished_takes_nothing_from_the_environment(environment: Environment) -> None:
    set_all(environment, GROUP="env", RECONNECT__JITTER="0.5", ACK_WAIT="5", TLS__CA="/env.pem")
    config = EventBusConfig(backend=NatsConfig())
    assert load_config(config) is config
    assert get_default_nats_config("h").group is None
    parts = {"backend": NatsConfig(), "reconnect": ReconnectConfig()}
    assert load_config(parts) == EventBusConfig(backend=NatsConfig(), group="env")
    assert load_config({"url": "nats://h", "tls": TlsConfig()}).backend.tls == TlsConfig()  # type: ignore[union-attr]


def test_an_empty_variable_is_not_set(environment: Environment) -> None:
    set_all(environment, URL="memory://x", GROUP="", BACKEND="", RECONNECT__JITTER="", STREAM="", NONSENSE="")
    assert load_config() == EventBusConfig(backend=MemoryConfig(name="x"))
    set_all(environment, URL="")
    with pytest.raises(ConfigError, match="EVENTBUS_URL"):
        load_config()


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("EVENTBUS_GRUP", "EVENTBUS_GROUP"),
        ("EVENTBUS_RECONNECT__MAX_ATEMPTS", "EVENTBUS_RECONNECT__MAX_ATTEMPTS"),
        ("EVENTBUS_RECONNECT_MAX_ATTEMPTS", "EVENTBUS_RECONNECT__MAX_ATTEMPTS"),
        ("EVENTBUS_HEALTHCHECK__INTERVAL", "EVENTBUS_HEALTH_CHECK__INTERVAL"),
        ("EVENTBUS_TLS", "EVENTBUS_"),
        ("EVENTBUS_PASWORD", "EVENTBUS_PASSWORD"),
        ("EVENTBUS_", "EVENTBUS_"),
        ("EVENTBUS_group", "EVENTBUS_GROUP"),
        ("EVENTBUS_STREAM__NUM_REPLICAS", "raw options are one JSON object: set EVENTBUS_STREAM"),
        ("EVENTBUS_PRODUCER__LINGER_MS", "raw options are one JSON object: set EVENTBUS_PRODUCER"),
    ],
)
@pytest.mark.parametrize("source", [None, "memory://x", {"backend": "nats"}], ids=str)
def test_an_unknown_variable_is_refused_and_names_the_nearest(
    variable: str, near: str, source: Any, environment: Environment
) -> None:
    environment.setenv("EVENTBUS_URL", "memory://x")
    environment.setenv(variable, SECRET)
    with pytest.raises(ConfigError, match=f"unknown variable {variable}.*{near}") as caught:
        load_config(source)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "variable",
    [
        "EVENTBUS_TEST_NATS",
        "EVENTBUS_TEST_ANYTHING",
        "EVENTBUS_KAFKA_JARS",
        "EVENTBUS_SOAK",
        "EVENTBUS_SERVICE_HOST",
        "EVENTBUS_NATS_SERVICE_PORT_CLIENT",
        "EVENTBUS_PORT",
        "EVENTBUS_PORT_4222_TCP_ADDR",
        "EVENTBUS_NATS_PORT_4222_TCP",
        "MY_EVENTBUS_GRUP",
        "eventbus_grup",
    ],
)
def test_variables_that_are_no_settings_are_left_alone(variable: str, environment: Environment) -> None:
    environment.setenv(variable, "tcp://10.0.0.1:4222")
    assert load_config("nats://h") == load_config(get_default_nats_config("nats://h"))


@pytest.mark.parametrize(
    ("url", "variables", "words"),
    [
        ("memory://", {"HEALTH_CHECK__INTERVAL": "often"}, "interval must be.*EVENTBUS_HEALTH_CHECK__INTERVAL"),
        ("memory://", {"RECONNECT__MAX_BACKOFF": "0.1"}, "EVENTBUS_RECONNECT__MAX_BACKOFF"),
        ("kafka://h", {"USER": "u"}, "go together.*EVENTBUS_USER"),
        ("kafka://h", {"PRODUCER": '{"acks": 1}'}, r"producer\['acks'\] may not be set.*EVENTBUS_PRODUCER"),
        ("kafka://h", {"PRODUCER": "linger.ms=5"}, "EVENTBUS_PRODUCER must be a JSON object"),
        ("nats://h", {"STREAM": "[1]"}, "EVENTBUS_STREAM must be a JSON object"),
        ("nats://h", {"GROUP": "a b"}, "EVENTBUS_GROUP"),
    ],
)
def test_what_is_wrong_names_the_variable(
    url: str, variables: dict[str, str], words: str, environment: Environment
) -> None:
    set_all(environment, **variables)
    with pytest.raises(ConfigError, match=words):
        load_config(url)


def test_an_error_that_the_environment_has_no_part_in_does_not_name_it(environment: Environment) -> None:
    set_all(environment, GROUP="g")
    with pytest.raises(ConfigError) as caught:
        load_config("memory://?partitions=few")
    assert "EVENTBUS_" not in str(caught.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"PASSWORD": SECRET},
        {"TOKEN": SECRET, "USER": "u", "PASSWORD": SECRET},
        {"COMMON": f'{{"sasl.password": "{SECRET}"'},
        {"COMMON": f'{{"ssl.key.password": ["{SECRET}"]}}'},
        {"URL": f"nats://u:{SECRET}@h/path"},
        {"BACKEND": f"nats://u:{SECRET}@h"},
    ],
    ids="-".join,
)
def test_no_error_tells_a_secret(variables: dict[str, str], environment: Environment) -> None:
    set_all(environment, **variables)
    for source in ("nats://h", "kafka://h", None):
        try:
            load_config(source)
        except ConfigError as error:
            assert SECRET not in "".join(traceback.format_exception(error))
        else:
            continue
        break
    else:
        pytest.fail("nothing was refused")


# -- the same names in another mapping -----------------------------------------------------------


def test_another_mapping_may_have_typed_values_and_whole_groups() -> None:
    found = settings_named(
        {
            "EVENTBUS_URL": "kafka://a",
            "EVENTBUS_CREATE_TOPICS": False,
            "EVENTBUS_MAX_IN_FLIGHT": 7,
            "EVENTBUS_RECONNECT": {"MAX_ATTEMPTS": None, "jitter": 0.5},
            "EVENTBUS_RECONNECT__JITTER": 0.25,
            "EVENTBUS_PRODUCER": {"linger.ms": 5},
            "EVENTBUS_GROUP": "",
            "DEBUG": True,
        }
    )
    config = load_config(found)
    assert isinstance(config.backend, KafkaConfig)
    assert (config.backend.create_topics, dict(config.backend.producer)) == (False, {"linger.ms": 5})
    assert (config.max_in_flight, config.group) == (7, None)
    assert (config.reconnect.max_attempts, config.reconnect.jitter) == (None, 0.25)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("EVENTBUS_RECONECT", {"max_attempts": 1}, "EVENTBUS_RECONECT"),
        ("EVENTBUS_RECONNECT", {"max_atempts": 1}, "EVENTBUS_RECONNECT__MAX_ATTEMPTS"),
        ("EVENTBUS_RECONNECT", 5, "EVENTBUS_RECONNECT"),
        ("EVENTBUS_PRODUCER", 5, "EVENTBUS_PRODUCER must be a JSON object"),
    ],
)
def test_what_is_wrong_in_another_mapping_is_named(name: str, value: object, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settings_named({name: value})
    assert hint in str(raised.value)


def test_a_whole_group_is_no_variable() -> None:
    with pytest.raises(ConfigError, match="EVENTBUS_RECONNECT__"):
        settings_named({"EVENTBUS_RECONNECT": "5"})
