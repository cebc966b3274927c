"""Settings from the environment: `EVENTBUS_GROUP`, `EVENTBUS_RECONNECT__MAX_ATTEMPTS=5`, `EVENTBUS_TLS__CA`.

A name is `EVENTBUS_` and the setting in capitals; two underscores reach into a group of settings. Raw options for
a client are one JSON object: `EVENTBUS_PRODUCER={"linger.ms": 5}`. An empty variable counts as not set. Any other name
that begins with `EVENTBUS_` is a ConfigError, but for those of the testing tools (`EVENTBUS_TEST_*`) and those that
Kubernetes makes for a service called eventbus.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from .errors import ConfigError

PREFIX = "EVENTBUS_"

_NOT_SETTINGS = re.compile(
    "EVENTBUS_(TEST_.*|SOAK|KAFKA_JARS"
    "|(.*_)?SERVICE_HOST|(.*_)?SERVICE_PORT(_.*)?|(.*_)?PORT(_[0-9]+_(TCP|UDP|SCTP)(_.*)?)?)"
)


def settings_from(
    environment: Mapping[str, Any],
    settings: Collection[str],
    groups: Mapping[str, Collection[str]],
    raw: Collection[str],
) -> dict[str, Any]:
    """The settings that variables give: the value of each, a mapping for a group or for raw options.

    settings: the names of the plain ones. groups: by its name, what is in a group. raw: those given as JSON, or, where
    values are more than texts, as a mapping. ConfigError for an unknown name, with the nearest known one, and for
    broken JSON; it shows no value.
    """
    known: dict[str, tuple[str, ...]] = {_variable(name): (name,) for name in (*settings, *raw)}
    known |= {_variable(group, name): (group, name) for group, names in groups.items() for name in names}
    found: dict[str, Any] = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or value == "" or _NOT_SETTINGS.fullmatch(variable):
            continue
        if variable not in known:
            raise ConfigError(_unknown(variable, known, raw))
        *group, name = known[variable]
        place = found.setdefault(group[0], {}) if group else found
        place[name] = _options(variable, value) if not group and name in raw else value
    return found


def with_groups_spread(values: Mapping[str, Any], groups: Collection[str]) -> dict[str, Any]:
    """The same with what stands in a mapping for a whole group under its own variables; those win that are there.

    `{"EVENTBUS_RECONNECT": {"max_attempts": 5}}` is `{"EVENTBUS_RECONNECT__MAX_ATTEMPTS": 5}`.
    """
    of_groups = {_variable(group) for group in groups}
    spread: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for variable, value in values.items():
        if variable in of_groups and isinstance(value, Mapping):
            spread |= {f"{variable}__{name}".upper(): inner for name, inner in value.items()}
        else:
            plain[variable] = value
    return spread | plain


def variables_behind(message: str, values: Mapping[str, Any]) -> list[str]:
    """The variables that gave those of these settings that an error's message names, sorted."""
    words = set(re.findall(r"\w+", message))
    names = []
    for name, value in values.items():
        if name in words:
            names.append(_variable(name))
        elif isinstance(value, Mapping):
            names += [_variable(name, one) for one in value if one in words]
    return sorted(names)


def _variable(*path: str) -> str:
    return PREFIX + "__".join(path).upper()


def _options(variable: str, given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    try:
        value = json.loads(given)
    except (TypeError, ValueError):
        value = None  # what json says of it quotes nothing, but its error holds the whole text
    if not isinstance(value, dict):
        raise ConfigError(f'{variable} must be a JSON object of raw options, such as {{"name": 5}}')
    return value


def _unknown(variable: str, known: Collection[str], raw: Collection[str]) -> str:
    for name in raw:
        if variable.startswith(_variable(name) + "__"):
            return f"unknown variable {variable}; raw options are one JSON object: set {_variable(name)}"
    near = get_close_matches(variable.upper(), known, n=1, cutoff=0.0)
    return f"unknown variable {variable}; did you mean {near[0]}?"
