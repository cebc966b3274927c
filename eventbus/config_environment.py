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
    environment: Mapping[str, str],
    settings: Collection[str],
    groups: Mapping[str, Collection[str]],
    raw: Collection[str],
) -> dict[str, Any]:
    """The settings that variables give: a text for each, a mapping for a group or for raw options.

    settings: the names of the plain ones. groups: by its name, what is in a group. raw: those given as JSON.
    ConfigError for an unknown name, with the nearest known one, and for broken JSON; it shows no value.
    """
    known: dict[str, tuple[str, ...]] = {_variable(name): (name,) for name in (*settings, *raw)}
    known |= {_variable(group, name): (group, name) for group, names in groups.items() for name in names}
    found: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or not text or _NOT_SETTINGS.fullmatch(variable):
            continue
        if variable not in known:
            raise ConfigError(_unknown(variable, known, raw))
        *group, name = known[variable]
        place = found.setdefault(group[0], {}) if group else found
        place[name] = _options(variable, text) if not group and name in raw else text
    return found


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


def _options(variable: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
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
