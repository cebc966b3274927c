"""Where a configuration comes from: URL, mapping, environment; an unknown key names the nearest known one."""

from __future__ import annotations

import contextlib
import traceback
from typing import Any
from urllib.parse import quote, urlencode

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventbus
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
    load_config,
)


def test_a_nats_url_with_everything() -> None:
    config = load_config(
        "nats://us%40er:pa%2Fss@a:4222,b:4223?group=orders&jetstream=false&health_check.interval=1&reconnect.max_attempts=none"
    )
    assert config.backend == NatsConfig(
        servers=("nats://a:4222", "nats://b:4223"), user="us@er", password="pa/ss", jetstream=False
    )
    assert (config.group, config.health_check.interval, config.reconnect.max_attempts) == ("orders", 1.0, None)


def test_other_urls() -> None:
    assert load_config("memory://orders").backend == MemoryConfig(name="orders")
    assert load_config("memory://").backend == MemoryConfig()
    assert load_config("memory://a?partitions=3").backend == MemoryConfig(name="a", partitions=3)
    assert load_config("nats://").backend == NatsConfig()
    assert load_config("nats://secret@h").backend == NatsConfig(servers=("nats://h",), token="secret")
    assert load_config("nats://[::1]:4222").backend == NatsConfig(servers=("nats://[::1]:4222",))
    tls = load_config("tls://h:4222?tls.ca=/ca.pem&tls.verify=no").backend
    assert tls == NatsConfig(servers=("tls://h:4222",), tls=TlsConfig(ca="/ca.pem", verify=False))


def test_a_kafka_url_with_everything() -> None:
    config = load_config(
        "kafka://us%40er:pa%2Fss@a:9093,b?group=orders&producer.linger.ms=5&producer.compression.type=zstd"
        "&consumer.check.crcs=true&common.client.rack=007&admin.socket.timeout.ms=1.5&partitions=3"
        "&sasl_mechanism=SCRAM-SHA-512&reconnect.jitter=0&stall_timeout=7"
    )
    assert config.backend == KafkaConfig(
        brokers=("a:9093", "b:9092"),
        user="us@er",
        password="pa/ss",
        sasl_mechanism="SCRAM-SHA-512",
        partitions=3,
        stall_timeout=7.0,
        common={"client.rack": "007"},
        producer={"linger.ms": 5, "compression.type": "zstd"},
        consumer={"check.crcs": True},
        admin={"socket.timeout.ms": 1.5},
    )
    assert (config.group, config.reconnect.jitter) == ("orders", 0.0)
    assert config.backend.tls is None


def test_what_looks_like_a_number_stays_the_text_that_it_was() -> None:
    """A password of digits may not lose a zero."""
    for text in ("007", "1e5", "0x10", "1.50", "-0", "null", "[1]", "True", "NaN", "Infinity", '"5"', ""):
        backend = load_config(f"kafka://h?common.{urlencode({'ssl.key.password': text})}").backend
        assert backend == KafkaConfig(brokers="h", common={"ssl.key.password": text}), text


def test_tls_in_a_kafka_url() -> None:
    for url in ("kafka+ssl://h", "KAFKA+SSL://h", {"url": "kafka+ssl://h", "tls": None}):
        assert load_config(url).backend == KafkaConfig(brokers="h", tls=TlsConfig())
    ca = KafkaConfig(brokers="h", tls=TlsConfig(ca="/ca.pem"))
    assert load_config("kafka+ssl://h?tls.ca=/ca.pem").backend == ca
    assert load_config("kafka://h?tls.ca=/ca.pem").backend == ca, "asking for it in one way is enough"
    assert load_config({"url": "kafka+ssl://h", "tls": {"ca": "/ca.pem"}}).backend == ca


def test_other_kafka_sources() -> None:
    assert load_config("kafka://").backend == KafkaConfig()
    assert load_config("kafka://a,b/").backend == KafkaConfig(brokers=["a:9092", "b:9092"])
    assert load_config("kafka://[::1]:1").backend == KafkaConfig(brokers="[::1]:1")
    assert load_config("kafka://?brokers=a,b").backend == KafkaConfig(brokers="a,b")
    mapping = {"backend": "kafka", "brokers": ["a", "b:1"], "producer": {"linger.ms": 5}, "group": "g"}
    config = load_config(mapping)
    assert config.backend == KafkaConfig(brokers=("a:9092", "b:1"), producer={"linger.ms": 5})
    assert (config.group, load_config({"backend": config.backend, "group": "g"})) == ("g", config)
    assert mapping["producer"] == {"linger.ms": 5}


def test_a_mapping() -> None:
    config = load_config(
        {"backend": "nats", "servers": ["a", "b"], "tls": {"ca": "c"}, "reconnect": {"jitter": 0}, "group": "g"}
    )
    assert config.backend == NatsConfig(servers=("a", "b"), tls=TlsConfig(ca="c"))
    assert (config.reconnect.jitter, config.group) == (0.0, "g")
    assert load_config({"url": "memory://x", "group": "g"}) == EventBusConfig(backend=MemoryConfig(name="x"), group="g")
    assert load_config({"backend": MemoryConfig(name="y"), "name": "n"}).name == "n"


def test_a_mapping_is_left_alone() -> None:
    source = {"url": "memory://x", "reconnect": {"jitter": 0.5}}
    load_config(source)
    assert source == {"url": "memory://x", "reconnect": {"jitter": 0.5}}


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_URL", "memory://env")
    assert load_config().backend == MemoryConfig(name="env")
    monkeypatch.delenv("EVENTBUS_URL")
    with pytest.raises(ConfigError, match="EVENTBUS_URL"):
        load_config()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"url": "memory://", "grup": "x"}, "grup.*'group'"),
        ({"url": "memory://", "reconnect": {"max_atempts": 3}}, r"reconnect\.max_atempts.*'max_attempts'"),
        ("nats://h?helth_check.interval=1", "helth_check.*'health_check'"),
        ("nats://h?health_check.intervall=1", r"health_check\.intervall.*'interval'"),
        ("memory://?jetstream=true", "jetstream"),
        ("nast://h", "nast.*'nats'"),
        ("localhost:4222", "not a URL"),
        ("nats://h/path", "path"),
        ("nats://h?group", "query"),
        ("nats://h?group=a&group=b", "group.*twice"),
        ("nats://h?tls=1&tls.ca=x", "tls"),
        ("kafka://user@h", "user and password"),
        ("kafka://h/path", "a Kafka URL has no path"),
        ("kafka://h:0", "brokers"),
        ("kafka://h?producer=5", "producer must be a mapping"),
        ("kafka://h?producer=5&producer.linger.ms=5", "'producer', which has a value"),
        ("kafka://h?producer.linger.ms=5&producer.linger.ms=6", r"producer\.linger\.ms' is there twice"),
        ("kafka://h?producer.acks=1", r"producer\['acks'\] may not be set"),
        ("kafka://h?broker=a", "broker.*'brokers'"),
        ("kafka://h?tls.hostname=x", r"tls\.hostname"),
        ("kafka+tls://h", "unknown scheme"),
        ({"url": "kafka://h", "servers": "a"}, "servers"),
        ("memory://?partitions=abc", "partitions"),
        ("memory://?health_check.interval=often", "interval"),
        ({"url": "memory://x", "backend": "nats"}, "backend"),
        ({"url": 7}, "url"),
        ({}, "backend"),
        ({"backend": "redis"}, "redis"),
        ({"url": "memory://", "reconnect": 3}, "reconnect"),
        ({"url": "memory://", "reconnect": None}, "reconnect"),
        (7, "int"),
        (b"memory://", "bytes"),
    ],
)
def test_what_is_wrong_is_said(source: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(source)


def test_the_default_configurations() -> None:
    assert eventbus.get_default_nats_config().backend == NatsConfig(servers=("nats://127.0.0.1:4222",))
    assert eventbus.get_default_nats_config(["a", "b"]).backend == NatsConfig(servers=("a", "b"))
    assert eventbus.get_default_kafka_config().backend == KafkaConfig()
    assert eventbus.get_default_kafka_config("a, b:1").backend == KafkaConfig(brokers=("a:9092", "b:1"))
    assert eventbus.get_default_kafka_config(["a"]).backend == KafkaConfig(brokers=("a:9092",))
    assert eventbus.get_default_memory_config("x") == EventBusConfig(backend=MemoryConfig(name="x"))
    assert load_config(config := EventBusConfig()) is config


GROUPS: dict[str, type[Any]] = {"reconnect": ReconnectConfig, "health_check": HealthCheckConfig, "tls": TlsConfig}
GROUPS |= {"retry": RetryConfig, "guard": GuardConfig}
OTHER: dict[str, object] = {
    "rebuild": "always",
    "on_outage": "raise",
    "on_fork": "raise",
    "group": "orders",
    "max_attempts": 7,
    "retry_interval": 7.5,
    "certificate": "c.pem",
    "max_backoff": 77.0,
    "partitions": 3,
    "replication_factor": 2,
    "sasl_mechanism": "SCRAM-SHA-256",
    "group_protocol": "classic",
    "handler_timeout": 7.5,
    "retry_on": (OSError, ValueError),
    "give_up_on": (KeyError,),
    "max_pause": 77.0,
    "initial_pause": 7.5,
    "least": 7,
    "window": 77,
    "nkey": f"SU{'A' * 56}",
}
"""Values that are not the default, where one cannot be made from the default."""


def other(name: str, default: object) -> object:
    if name in OTHER:
        return OTHER[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, (int, float)):
        return type(default)(1) if default != 1 else type(default)(2)
    return "other"


def settings_of(kind: type[Any], left_out: set[str]) -> list[tuple[str, object]]:
    return [
        (field.name, other(field.name, getattr(kind(), field.name)))
        for field in attrs.fields(kind)
        if field.name not in left_out
    ]


WITH = {"user": {"password": "p"}, "password": {"user": "u"}, "jitter": {}, "key": {"certificate": "c.pem"}}
"""What some settings cannot be without."""
SCALARS = [
    *(("memory://x", None, *one) for one in settings_of(EventBusConfig, {"backend", *GROUPS})),
    *(("memory://x", None, *one) for one in settings_of(MemoryConfig, {"name"})),
    *(("nats://h", None, *one) for one in settings_of(NatsConfig, {"servers", "tls", "stream", "consumer"})),
    *(
        ("kafka://h", None, *one)
        for one in settings_of(KafkaConfig, {"brokers", "tls", "common", "producer", "consumer", "admin"})
    ),
    *(("nats://h", group, *one) for group, kind in GROUPS.items() for one in settings_of(kind, set())),
]


def text_of(value: object) -> str:
    """As it stands in a URL or a variable."""
    if isinstance(value, tuple):
        return ",".join(one.__name__ for one in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def holder_of(config: EventBusConfig, group: str | None, name: str) -> Any:
    """The value that has the setting: a group of settings, the bus's, or the backend's."""
    if group is None:
        return config if hasattr(config, name) else config.backend
    return getattr(config, group) if hasattr(config, group) else getattr(config.backend, group)


@pytest.mark.parametrize(("base", "group", "name", "value"), SCALARS)
def test_every_setting_can_be_given_in_a_url_in_a_mapping_and_in_the_environment(
    base: str, group: str | None, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {name: value, **WITH.get(name, {})}
    texts = {key: text_of(one) for key, one in values.items()}
    query = {f"{group}.{key}" if group else key: one for key, one in texts.items()}
    url = f"{base}?{urlencode(query)}"
    monkeypatch.setenv("EVENTBUS_URL", url)
    from_url = load_config(url)
    assert getattr(holder_of(from_url, group, name), name) == value
    assert type(getattr(holder_of(from_url, group, name), name)) is type(value)
    assert load_config({"url": base, **({group: values} if group else values)}) == from_url
    assert load_config() == load_config({"url": url}) == from_url
    assert from_url != load_config(base), "it was not the default"


def test_a_group_of_settings_may_be_a_value_already() -> None:
    built = {"reconnect": ReconnectConfig(jitter=0.5), "tls": TlsConfig(ca="c")}
    config = load_config({"url": "nats://h", **built})
    assert (config.reconnect, holder_of(config, "tls", "ca")) == (built["reconnect"], built["tls"])
    assert load_config({"backend": config.backend, "group": "g"}).backend is config.backend


def test_raw_options_in_a_url_have_the_types_that_the_broker_wants() -> None:
    config = load_config(
        "nats://h?stream.num_replicas=3&stream.deny_delete=true&stream.placement.cluster=east&stream.a=b:c"
    )
    assert isinstance(config.backend, NatsConfig)
    assert config.backend.stream == {
        "num_replicas": 3,
        "deny_delete": True,
        "placement": {"cluster": "east"},
        "a": "b:c",
    }
    with pytest.raises(ConfigError, match=r"stream\['no_ack'\] may not be set"):
        load_config("nats://h?stream.no_ack=true")


NAMES = [(group, field.name) for group, kind in GROUPS.items() for field in attrs.fields(kind)] + [
    (None, field.name)
    for kind in (EventBusConfig, NatsConfig)
    for field in attrs.fields(kind)
    if field.name != "backend"
]


@pytest.mark.parametrize(("group", "name"), NAMES)
def test_a_misspelt_setting_names_the_nearest_one_wherever_it_stands(group: str | None, name: str) -> None:
    wrong = f"{name}x"
    for source in (
        f"nats://h?{group + '.' if group else ''}{wrong}=1",
        {"url": "nats://h", **({group: {wrong: 1}} if group else {wrong: 1})},
        {"backend": "nats", **({group: {wrong: 1}} if group else {wrong: 1})},
    ):
        with pytest.raises(ConfigError, match=rf"unknown setting {group + '.' if group else ''}{wrong}; did you mean"):
            load_config(source)


def test_a_setting_like_no_other_lists_what_is_known() -> None:
    with pytest.raises(ConfigError, match=r"known: .*connect_timeout.*partitions"):
        load_config({"url": "memory://", "qqq": 1})
    with pytest.raises(ConfigError, match="unknown setting 5"):
        load_config({"url": "memory://", 5: 1})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="jetstream"):
        load_config({"backend": MemoryConfig(), "jetstream": True})


@pytest.mark.parametrize(("source", "name"), [("nats://a?servers=b", "servers"), ("nats://t@a?token=u", "token")])
def test_a_setting_stands_once_in_a_url(source: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"set twice in the URL: {name}"):
        load_config(source)


def test_arguments_win_over_the_url() -> None:
    def given(url: str, **values: Any) -> EventBusConfig:
        return load_config({"url": url, **values})

    assert given("nats://a", servers=["b"]).backend == NatsConfig(servers=("b",))
    assert given("nats://u:p@a", password="q").backend == NatsConfig(servers=("nats://a",), user="u", password="q")
    assert given("nats://u:p@a", token="t").backend == NatsConfig(servers=("nats://a",), token="t")
    assert given("nats://a?group=x", group="y").group == "y"
    assert given("nats://a?group=x", group=None).group is None
    assert given("memory://x?name=n", name="m") == EventBusConfig(backend=MemoryConfig(name="x"), name="m")
    both = given("nats://a?reconnect.jitter=0.5&reconnect.max_attempts=3", reconnect={"max_attempts": 4})
    assert both.reconnect == ReconnectConfig(jitter=0.5, max_attempts=4)
    finished = given("nats://a?reconnect.jitter=0.5", reconnect=ReconnectConfig(max_attempts=4))
    assert finished.reconnect == ReconnectConfig(max_attempts=4)
    raw = given("kafka://h?producer.linger.ms=5&producer.compression.type=zstd", producer={"linger.ms": 6})
    assert raw.backend == KafkaConfig(brokers="h", producer={"linger.ms": 6, "compression.type": "zstd"})


def test_credentials_stand_once_and_no_server_is_silently_left_out() -> None:
    for url in ("nats://u:p@a,u:p@b", "nats://u:p@ss@a", "nats://t@a,t@b"):
        with pytest.raises(ConfigError, match="'@' is there twice"):
            load_config(url)
    with pytest.raises(ConfigError, match="path"):
        load_config("nats://a,nats://b")
    assert load_config("nats://u:p%40ss@a,b").backend == NatsConfig(
        servers=("nats://a", "nats://b"), user="u", password="p@ss"
    )


def test_a_scheme_is_read_in_any_case() -> None:
    assert load_config("NATS://h") == load_config("nats://h")


SECRET = "hunter2"


@pytest.mark.parametrize(
    "source",
    [
        f"nats://u:{SECRET}@h/path",
        f"nats//u:{SECRET}@h",
        f"u:{SECRET}@h:4222",
        f"nast://u:{SECRET}@h",
        f"u:{SECRET}@nats://h",
        f"nats://u:{SECRET}@h?nothing",
        f"nats://u:{SECRET}@h?grup=x",
        f"nats://u:{SECRET}@h?user=x",
        f"nats://u:{SECRET}@h?ack_wait=soon",
        f"nats://u:{SECRET}@a,u:{SECRET}@b",
        f"nats://u:{SECRET}@a?token=x",
        f"nats://u:{SECRET}@h:x",
        f"nats://u:{SECRET}@h:0",
        f"nats://u:{SECRET}@h#x",
        f"nats://u:{SECRET}",
        f"kafka://u:{SECRET}@h/path",
        f"kafka+sll://u:{SECRET}@h",
        f"kafka://{SECRET}@h",
        f"kafka://u:{SECRET}@a,u:{SECRET}@b",
        f"kafka://u:{SECRET}@h:0",
        f"kafka://u:{SECRET}@h?user=x",
        f"kafka://u:{SECRET}@h?partitions=few",
        f"kafka://h?common.sasl.password={SECRET}",
        f"kafka://h?brokers=u:{SECRET}@h",
        f"kafka://h?common={SECRET}",
        {"backend": "kafka", "brokers": [f"kafka://u:{SECRET}@h"]},
        {"backend": "kafka", "brokers": [f"u:{SECRET}@h", 7]},
        {"backend": "kafka", "password": SECRET},
        {"backend": "kafka", "common": {"sasl.password": SECRET}},
        {"backend": "kafka", "common": {"ssl.key.password": [SECRET]}},
        {"backend": "kafka", "common": {7: SECRET}},
        {"url": [f"nats://u:{SECRET}@h"]},
        {"backend": f"nats://u:{SECRET}@h"},
        {"backend": "nats", "servers": [f"nats://u:{SECRET}@h", 7]},
        {"backend": "nats", "user": "u", "password": [SECRET]},
        {"backend": "nats", "user": "u", "pasword": SECRET},
        {"backend": "nats", "password": SECRET},
        {"backend": "nats", "token": SECRET, "user": "u", "password": SECRET},
    ],
)
def test_no_error_tells_a_password(source: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(source)
    text = "".join(traceback.format_exception_only(type(caught.value), caught.value))
    assert SECRET not in text
    cause = caught.value.__cause__
    assert SECRET not in str(cause)


@given(st.text(min_size=1, max_size=10), st.text(min_size=1, max_size=10))
def test_any_password_comes_out_as_it_went_in_once_it_is_quoted(user: str, password: str) -> None:
    try:
        url = f"nats://{quote(user, safe='')}:{quote(password, safe='')}@h"
    except UnicodeEncodeError:
        return
    try:
        config = load_config(url).backend
    except ConfigError:
        assert any(ord(character) < 32 for character in user)
        return
    assert config == NatsConfig(servers=("nats://h",), user=user, password=password)


@given(st.text("natsmemorykf:/@?&=.,[]%h12 \n", max_size=30))
def test_no_text_at_all_ends_in_anything_but_a_configuration_or_a_typed_error(text: str) -> None:
    for source in (text, f"nats://{text}", f"memory://{text}", f"kafka://{text}", f"kafka+ssl://{text}"):
        with contextlib.suppress(ConfigError):
            assert isinstance(load_config(source), EventBusConfig)
