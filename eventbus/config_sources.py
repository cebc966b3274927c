"""Where a configuration comes from: a URL, a mapping (Django settings, YAML) or `EVENTBUS_URL`.

`nats://user:password@a:4222,b:4222?group=orders&jetstream=false&health_check.interval=1`,
`tls://a:4222?tls.ca=/etc/ca.pem`, `kafka://user:password@a:9092,b:9092?producer.linger.ms=5`,
`kafka+ssl://a:9093`, `memory://orders`. Query keys are the names of the settings; a dot reaches into a
group of them. The dots in the raw options for Kafka are part of their names: producer={"linger.ms": 5}.
A mapping has the same names, nested, and "url" or "backend". What stands in the URL may not stand beside
it too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl, unquote

import attrs

from .config import (
    BackendConfig,
    EventBusConfig,
    HealthCheckConfig,
    KafkaConfig,
    MemoryConfig,
    NatsConfig,
    ReconnectConfig,
    TlsConfig,
)
from .config_fields import texts
from .errors import ConfigError

ENVIRONMENT_VARIABLE = "EVENTBUS_URL"

_BACKENDS: dict[str, type[BackendConfig]] = {"memory": MemoryConfig, "nats": NatsConfig, "kafka": KafkaConfig}
_NESTED: dict[str, type[Any]] = {
    "reconnect": ReconnectConfig,
    "health_check": HealthCheckConfig,
    "tls": TlsConfig,
}
_SCHEMES = {"memory": "memory", "nats": "nats", "tls": "nats", "kafka": "kafka", "kafka+ssl": "kafka"}
_NESTED_RAW = {"nats": ("stream", "consumer")}
_FLAT_RAW = {"kafka": ("common", "producer", "consumer", "admin")}
"""Raw options in a URL, by backend; a dot reaches into the nested ones, and is part of a name in the flat ones."""

ConfigSource = EventBusConfig | Mapping[str, Any] | str | None


def load_config(source: ConfigSource = None) -> EventBusConfig:
    """Turn any source into a configuration; None reads `EVENTBUS_URL`. ConfigError says what is wrong."""
    if source is None:
        source = os.environ.get(ENVIRONMENT_VARIABLE)
        if not source:
            raise ConfigError(f"no configuration: pass a URL or mapping, or set {ENVIRONMENT_VARIABLE}")
    if isinstance(source, EventBusConfig):
        return source
    if isinstance(source, str):
        return _from_mapping({}, source)
    if isinstance(source, Mapping):
        values = dict(source)
        url = values.pop("url", None)
        if url is not None and not isinstance(url, str):
            raise ConfigError(f"url must be a str, not {type(url).__name__}")
        return _from_mapping(values, url)
    raise ConfigError(f"expected a URL, a mapping or an EventBusConfig, not {type(source).__name__}")


def get_default_nats_config(urls: str | Sequence[str] = "nats://127.0.0.1:4222") -> EventBusConfig:
    """The defaults for NATS with JetStream at these servers."""
    return EventBusConfig(backend=NatsConfig(servers=texts(urls)))


def get_default_memory_config(name: str = "default") -> EventBusConfig:
    """The defaults for the broker inside this process."""
    return EventBusConfig(backend=MemoryConfig(name=name))


def get_default_kafka_config(brokers: str | Sequence[str] = "127.0.0.1:9092") -> EventBusConfig:
    """The defaults for Kafka with these brokers."""
    return EventBusConfig(backend=KafkaConfig(brokers=brokers))


def _from_mapping(values: dict[str, Any], url: str | None) -> EventBusConfig:
    common = {field.name for field in attrs.fields(EventBusConfig)} - {"backend"}
    backend = values.pop("backend", None)
    if url is not None:
        if backend is not None:
            raise ConfigError("set either url or backend, not both")
        scheme, backend_values, query = _from_url(url)
        kind = _BACKENDS[scheme]
        _refuse_both(backend_values, {key: values[key] for key in values if key not in common})
        _refuse_both(backend_values, {key: query[key] for key in query if key not in common})
        _refuse_both(query, values)
        values = query | values
        if url.lower().startswith("kafka+ssl:") and values.get("tls") is None:
            values["tls"] = TlsConfig()
    elif isinstance(backend, (MemoryConfig, NatsConfig, KafkaConfig)):
        return EventBusConfig(backend=backend, **_nested(values, common))
    else:
        kind, backend_values = _named_backend(backend), {}
    own = {field.name for field in attrs.fields(kind)}
    _refuse_unknown(values, common | own | {"url", "backend"})
    backend_values |= {key: values.pop(key) for key in list(values) if key in own and key not in common}
    return EventBusConfig(backend=_build(kind, _nested(backend_values, own)), **_nested(values, common))


def _named_backend(backend: object) -> type[BackendConfig]:
    if not isinstance(backend, str) or backend not in _BACKENDS:
        given = "a URL" if "://" in str(backend) else repr(backend)  # there may be a password in it
        raise ConfigError(f"set url, or backend to one of {', '.join(map(repr, _BACKENDS))}, not {given}")
    return _BACKENDS[backend]


def _from_url(url: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError("not a URL: expected kafka://host:9092, nats://host:4222, tls://host:4222 or memory://name")
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        shown = scheme if scheme.isalnum() else "..."  # else the URL is malformed, and a password may stand there
        raise ConfigError(f"unknown scheme {shown!r}{_hint(shown, sorted(_SCHEMES))}")
    backend = _SCHEMES[scheme]
    place, _, query_text = rest.partition("?")
    query = _query(query_text, _FLAT_RAW.get(backend, ()))
    for name in _NESTED_RAW.get(backend, ()):
        if name in query:
            query[name] = _typed_texts(query[name])
    if backend == "memory":
        return backend, ({"name": unquote(place)} if place else {}), query
    place = place.rstrip("/")
    return backend, _nats_place(scheme, place) if backend == "nats" else _kafka_place(place), query


def _nats_place(scheme: str, place: str) -> dict[str, Any]:
    credentials, hosts = _divided(place, "NATS")
    values: dict[str, Any] = {}
    if hosts:
        values["servers"] = tuple(f"{scheme}://{host}" for host in texts(hosts))
    if credentials is not None:
        user, colon, password = credentials.partition(":")
        if colon:
            values |= {"user": unquote(user), "password": unquote(password)}
        else:
            values["token"] = unquote(user)
    return values


def _kafka_place(place: str) -> dict[str, Any]:
    credentials, hosts = _divided(place, "Kafka")
    values: dict[str, Any] = {"brokers": texts(hosts)} if hosts else {}
    if credentials is not None:
        user, colon, password = credentials.partition(":")
        if not colon:
            raise ConfigError("user and password go together: kafka://user:password@host:9092")
        values |= {"user": unquote(user), "password": unquote(password)}
    return values


def _divided(place: str, kind: str) -> tuple[str | None, str]:
    """The credentials, None where there are none, and the hosts."""
    credentials, at, hosts = place.rpartition("@")
    if "@" in credentials:
        raise ConfigError("'@' is there twice: credentials stand once, before all hosts; '@' in a password is %40")
    if "/" in hosts:
        raise ConfigError(f"a {kind} URL has no path: settings go behind '?'")
    return (credentials if at else None), hosts


def _query(query_text: str, flat: Collection[str]) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query_text, keep_blank_values=True, strict_parsing=bool(query_text))
    except ValueError as error:
        raise ConfigError("malformed query: expected key=value pairs joined by '&'") from error
    values: dict[str, Any] = {}
    for path, value in pairs:
        *groups, name = path.split(".")
        raw = bool(groups) and groups[0] in flat
        if raw:
            groups, name = groups[:1], path.partition(".")[2]
        place = values
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise ConfigError(f"setting {path!r} reaches into {group!r}, which has a value of its own")
        if name in place:
            raise ConfigError(f"setting {path!r} is there twice")
        place[name] = _plain_value(value) if raw else value
    return values


def _refuse_both(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    both = first.keys() & second.keys()
    if both:
        raise ConfigError(f"set in the URL and beside it: {', '.join(sorted(both))}")


def _typed_texts(value: Any) -> Any:
    """The raw options in a query go to the broker as they are: numbers and flags must be such, not texts."""
    if isinstance(value, dict):
        return {key: _typed_texts(inner) for key, inner in value.items()}
    try:
        return json.loads(value)
    except ValueError:
        return value


def _plain_value(text: str) -> str | int | float | bool:
    """A number or a flag, where its text is that very one: passwords have digits too."""
    try:
        value = json.loads(text, parse_constant=str)
    except ValueError:
        return text
    return value if isinstance(value, (int, float)) and json.dumps(value) == text else text


def _nested(values: dict[str, Any], known: set[str]) -> dict[str, Any]:
    _refuse_unknown(values, known)
    built = dict(values)
    for name, kind in _NESTED.items():
        value = built.get(name)
        if isinstance(value, Mapping):
            members = {field.name for field in attrs.fields(kind)}
            _refuse_unknown(value, members, prefix=f"{name}.")
            built[name] = _build(kind, dict(value))
        elif value is not None and not isinstance(value, kind):
            raise ConfigError(f"{name} must be a mapping or a {kind.__name__}, not {value!r}")
    return built


def _build(kind: type[Any], values: dict[str, Any]) -> Any:
    return kind(**values)


def _refuse_unknown(values: Mapping[str, Any], known: set[str], prefix: str = "") -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown setting {prefix}{key!s}{_hint(str(key), sorted(known))}")


def _hint(word: str, known: list[str]) -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
