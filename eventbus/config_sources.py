"""Where a configuration comes from: a URL, a mapping (Django settings, YAML) or the environment.

`nats://user:password@a:4222,b:4222?group=orders&jetstream=false&health_check.interval=1`,
`tls://a:4222?tls.ca=/etc/ca.pem`, `kafka://user:password@a:9092,b:9092?producer.linger.ms=5`,
`kafka+ssl://a:9093`, `memory://orders`. Query keys are the names of the settings; a dot reaches into a
group of them. The dots in the raw options for Kafka are part of their names: producer={"linger.ms": 5}.

A mapping has the same names, nested, and "url" or "backend". Without either, as without any source, `EVENTBUS_URL`
(or `EVENTBUS_BACKEND`, "nats") says where the broker is. Every setting has a variable of its own, too:
`EVENTBUS_RECONNECT__MAX_ATTEMPTS=5`, see `eventbus.config_environment`.

What a mapping says wins over the URL, the URL over the environment, setting by setting. One way to say who we are (user
and password, token, credentials, key) wins over another one below it. Of the environment counts what the backend knows,
whatever else is set for others. What is finished is not changed: an EventBusConfig takes nothing from the environment,
nor does a ReconnectConfig, a TlsConfig or a NatsConfig inside a mapping.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl, unquote

import attrs

from .config import BackendConfig, EventBusConfig, HealthCheckConfig, MemoryConfig, NatsConfig, ReconnectConfig
from .config_delivery import GuardConfig, RetryConfig
from .config_environment import settings_from, variables_behind, with_groups_spread
from .config_fields import texts
from .config_kafka import KafkaConfig
from .config_tls import TlsConfig
from .errors import ConfigError

ENVIRONMENT_VARIABLE = "EVENTBUS_URL"

_BACKENDS: dict[str, type[BackendConfig]] = {"memory": MemoryConfig, "nats": NatsConfig, "kafka": KafkaConfig}
_NESTED: dict[str, type[Any]] = {
    "reconnect": ReconnectConfig,
    "retry": RetryConfig,
    "guard": GuardConfig,
    "health_check": HealthCheckConfig,
    "tls": TlsConfig,
}
_SCHEMES = {"memory": "memory", "nats": "nats", "tls": "nats", "kafka": "kafka", "kafka+ssl": "kafka"}
_NESTED_RAW = {"nats": ("stream", "consumer")}
_FLAT_RAW = {"kafka": ("common", "producer", "consumer", "admin")}
"""Raw options in a URL, by backend; a dot reaches into the nested ones, and is part of a name in the flat ones."""

ConfigSource = EventBusConfig | Mapping[str, Any] | str | None


def load_config(source: ConfigSource = None) -> EventBusConfig:
    """Turn any source into a configuration; None reads the environment alone. ConfigError says what is wrong."""
    if isinstance(source, EventBusConfig):
        return source
    if source is None:
        values: dict[str, Any] = {}
    elif isinstance(source, str):
        values = {"url": source}
    elif isinstance(source, Mapping):
        values = dict(source)
    else:
        raise ConfigError(f"expected a URL, a mapping or an EventBusConfig, not {type(source).__name__}")
    environment = settings_named(os.environ)
    places = ("url", "backend")
    given: dict[str, Any] = {name: environment.pop(name) for name in places if name in environment}
    if values.get("url") is None and values.get("backend") is None:
        if len(given) != 1:
            raise ConfigError(
                f"set either {ENVIRONMENT_VARIABLE} or EVENTBUS_BACKEND, not both"
                if given
                else f"no configuration: pass a URL, or a mapping with url or backend, or set {ENVIRONMENT_VARIABLE}"
            )
        values |= given
    url = values.pop("url", None)
    if url is not None and not isinstance(url, str):
        raise ConfigError(f"url must be a str, not {type(url).__name__}")
    return _from_mapping(values, url, environment)


def get_default_nats_config(urls: str | Sequence[str] = "nats://127.0.0.1:4222") -> EventBusConfig:
    """The defaults for NATS with JetStream at these servers."""
    return EventBusConfig(backend=NatsConfig(servers=texts(urls)))


def get_default_memory_config(name: str = "default") -> EventBusConfig:
    """The defaults for the broker inside this process."""
    return EventBusConfig(backend=MemoryConfig(name=name))


def get_default_kafka_config(brokers: str | Sequence[str] = "127.0.0.1:9092") -> EventBusConfig:
    """The defaults for Kafka with these brokers."""
    return EventBusConfig(backend=KafkaConfig(brokers=brokers))


def _names(kind: type[Any]) -> set[str]:
    return {field.name for field in attrs.fields(kind)}


_LOGINS = ({"user", "password"}, {"token"}, {"credentials"}, {"nkey", "jwt"})
"""Ways to say who we are: one that is set above hides the others below it."""
_COMMON = _names(EventBusConfig) - {"backend"}


def settings_named(variables: Mapping[str, Any]) -> dict[str, Any]:
    """What a mapping sets by the names that settings have in the environment, as a mapping for `load_config`.

    `{"EVENTBUS_URL": "nats://a", "EVENTBUS_RECONNECT__MAX_ATTEMPTS": 5}`, in Flask's `app.config` say. Values may be
    typed; a group of settings, or of raw options, may be a mapping. Other names are left alone, but an unknown one that
    begins with `EVENTBUS_` is a ConfigError that names the nearest.
    """
    raw = {name for names in (_NESTED_RAW | _FLAT_RAW).values() for name in names}
    every = _names(EventBusConfig).union({"url"}, *map(_names, _BACKENDS.values()))
    groups = {name: _names(kind) for name, kind in _NESTED.items()}
    return settings_from(with_groups_spread(variables, groups), every - raw - groups.keys(), groups, raw)


def _from_mapping(values: dict[str, Any], url: str | None, environment: dict[str, Any]) -> EventBusConfig:
    backend = values.pop("backend", None)
    place: dict[str, Any] = {}
    query: dict[str, Any] = {}
    finished = isinstance(backend, (MemoryConfig, NatsConfig, KafkaConfig))
    if url is not None:
        if backend is not None:
            raise ConfigError("set either url or backend, not both")
        scheme, place, query = _from_url(url)
        kind = _BACKENDS[scheme]
        _refuse_twice(place, {key for key in query if key not in _COMMON})
    else:
        kind = type(backend) if finished else _named_backend(backend)
    own = set() if finished else _names(kind)
    for layer in (values, query):
        _refuse_unknown(layer, _COMMON | own | (set() if finished else {"url", "backend"}))
    named = {key: place.pop(key) for key in list(place) if key in _COMMON}  # memory://name is not the bus's name
    environment = {key: value for key, value in environment.items() if key in _COMMON | own}
    values = _over(_over(environment, query | place), values)
    if url is not None and url.lower().startswith("kafka+ssl:") and values.get("tls") is None:
        values["tls"] = TlsConfig()
    try:
        if not finished:
            of_backend = named | {key: values.pop(key) for key in list(values) if key in own and key not in _COMMON}
            backend = kind(**_nested(of_backend, own))
        return EventBusConfig(backend=backend, **_nested(values, _COMMON))
    except ConfigError as error:
        variables = variables_behind(str(error), environment)
        if not variables:
            raise
        raise ConfigError(f"{error} (in the environment: {', '.join(variables)})") from error


def _over(lower: Mapping[str, Any], higher: Mapping[str, Any]) -> dict[str, Any]:
    """What is set in either; the higher wins, inside a group of settings and raw options, too."""
    given = [way for way in _LOGINS if any(higher.get(name) is not None for name in way)]
    hidden = {name for way in _LOGINS for name in way if given and way not in given}
    both = {key: value for key, value in lower.items() if key not in hidden}
    for key, value in higher.items():
        below = both.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = {**below, **value}
        both[key] = value
    return both


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


def _refuse_twice(place: Mapping[str, Any], query: Collection[str]) -> None:
    both = place.keys() & set(query)
    if both:
        raise ConfigError(f"set twice in the URL: {', '.join(sorted(both))}")


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
            _refuse_unknown(value, _names(kind), prefix=f"{name}.")
            built[name] = kind(**value)
        elif value is not None and not isinstance(value, kind):
            raise ConfigError(f"{name} must be a mapping or a {kind.__name__}, not {value!r}")
    return built


def _refuse_unknown(values: Mapping[str, Any], known: set[str], prefix: str = "") -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown setting {prefix}{key!s}{_hint(str(key), sorted(known))}")


def _hint(word: str, known: list[str]) -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
