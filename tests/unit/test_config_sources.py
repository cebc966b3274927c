"""Where a configuration comes from: URL, mapping, environment; an unknown key names the nearest known one."""

from __future__ import annotations

from typing import Any

import pytest

import eventbus
from eventbus import ConfigError, EventBusConfig, MemoryConfig, NatsConfig, TlsConfig, UnsupportedError, load_config


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
        ("memory://?partitions=abc", "partitions"),
        ("memory://?health_check.interval=often", "interval"),
        ({"url": "memory://x?group=a", "group": "b"}, "group"),
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


def test_a_wrong_password_is_not_in_the_text() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("nats://user:hunter2@h/path")
    assert "hunter2" not in str(caught.value)


def test_kafka_is_not_built_yet_and_says_so() -> None:
    for call in (
        lambda: eventbus.get_default_kafka_config("localhost:9092"),
        lambda: load_config("kafka://a:9092"),
        lambda: load_config({"backend": "kafka"}),
    ):
        with pytest.raises(UnsupportedError, match="not built yet"):
            call()


def test_the_default_configurations() -> None:
    assert eventbus.get_default_nats_config().backend == NatsConfig(servers=("nats://127.0.0.1:4222",))
    assert eventbus.get_default_nats_config(["a", "b"]).backend == NatsConfig(servers=("a", "b"))
    assert eventbus.get_default_memory_config("x") == EventBusConfig(backend=MemoryConfig(name="x"))
    assert load_config(config := EventBusConfig()) is config
