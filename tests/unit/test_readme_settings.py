"""The README's table of defaults has every setting, with the value that it has in the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import eventbus
from eventbus import (
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

TEXT = (Path(eventbus.__file__).parents[1] / "README.rst").read_text(encoding="utf-8")
TABLE = TEXT.partition("\nDefaults\n")[2].partition("\nWhat each backend promises\n")[0]
CLASSES: list[tuple[str, type[Any]]] = [
    ("", EventBusConfig),
    ("", KafkaConfig),
    ("", NatsConfig),
    ("", MemoryConfig),
    ("reconnect.", ReconnectConfig),
    ("health_check.", HealthCheckConfig),
    ("retry.", RetryConfig),
    ("guard.", GuardConfig),
    ("tls.", TlsConfig),
]
IN_A_URL = {"backend", "brokers", "servers", "name"}
"""Where the broker is, and what the bus is called: the text above the table has them."""
SHOWN = {"true": True, "false": False, "none": None, "100000": 100_000, "1000000": 1_000_000}


def settings() -> Iterator[tuple[str, Any]]:
    """Every setting by its full name, with the default that it has in the code."""
    for group, config in CLASSES:
        for field in attrs.fields(config):
            if field.name not in IN_A_URL and field.name not in {one.rstrip(".") for one, _ in CLASSES}:
                yield group + field.name, field.default


def rows() -> dict[str, str]:
    """What the table says of each setting that has a row of its own."""
    found = re.findall(r"^``([\w.]+)`` +(\S+(?: MiB)?)  ", TABLE, re.MULTILINE)
    assert len(found) > 30
    return dict(found)


@pytest.mark.parametrize("name", sorted({name for name, _ in settings()}))
def test_each_setting_is_in_the_table(name: str) -> None:
    assert f"``{name}``" in TABLE


@pytest.mark.parametrize(("name", "default"), [(name, default) for name, default in settings() if name in rows()])
def test_each_default_is_the_one_in_the_code(name: str, default: Any) -> None:
    shown = rows()[name]
    if isinstance(default, (bool, type(None))):
        assert SHOWN[shown] is default
    elif isinstance(default, str):
        assert shown == default
    else:
        number, _, unit = shown.partition(" ")
        assert float(number) * (1024 * 1024 if unit == "MiB" else 1) == default
