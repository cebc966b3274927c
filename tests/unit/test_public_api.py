"""The public face is what was promised: a change of it is a change of the file beside this one.

To take a change over: python tests/unit/test_public_api.py > tests/unit/public_api.txt
"""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
from enum import Enum
from pathlib import Path

import attrs

import eventbus

GOLDEN = Path(__file__).with_name("public_api.txt")


def describe() -> str:
    """Every name of `eventbus.__all__` with its signature, classes with their public members."""
    lines: list[str] = []
    for name in sorted(eventbus.__all__):
        lines.extend(_lines_of(name, getattr(eventbus, name)))
    return "\n".join(lines) + "\n"


def _lines_of(name: str, value: object) -> list[str]:
    if inspect.isfunction(value):
        return [f"{name}{inspect.signature(value)}"]
    if not isinstance(value, type):
        return [f"{name}: {type(value).__name__}"]
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
    head = f"class {name}({bases})" if bases else f"class {name}"
    if issubclass(value, Enum):
        return [head, *(f"    {member.name} = {member.value!r}" for member in value)]
    if attrs.has(value):
        return [head, *(f"    {_field(field)}" for field in attrs.fields(value))]
    lines = [head]
    for member, found in sorted(vars(value).items()):
        if member.startswith("_") and member != "__init__":
            continue
        if inspect.isfunction(found):
            lines.append(f"    {member}{inspect.signature(found)}")
        elif isinstance(found, property):
            lines.append(f"    {member}: property")
    return lines


def _field(field: attrs.Attribute) -> str:
    if field.default is attrs.NOTHING:
        return f"{field.name}: {field.type}"
    default = f"{field.default.factory.__name__}()" if isinstance(field.default, attrs.Factory) else repr(field.default)
    return f"{field.name}: {field.type} = {default}"


def test_the_signatures_are_the_golden_ones() -> None:
    assert describe().splitlines() == GOLDEN.read_text().splitlines()


def test_the_design_s_verbs_are_there() -> None:
    verbs = [
        *("open", "close", "publish", "publish_async", "publish_many", "publish_nowait", "flush"),
        *("subscribe", "on", "unsubscribe", "start_health_check", "stop_health_check", "reconnect", "wait_connected"),
        *("register_reconnect_callback", "unregister_reconnect_callback", "register_error_callback"),
        *("register_state_callback", "get_connection_state", "get_health_status", "get_reconnect_status"),
        "get_statistics",
    ]
    missing = [verb for verb in verbs if not callable(getattr(eventbus.EventBus, verb, None))]
    assert missing == []


def test_what_comes_later_is_absent_not_ignored() -> None:
    parameters = inspect.signature(eventbus.EventBus.subscribe).parameters
    assert not {"ordered", "retry", "dead_letter", "in_children"} & set(parameters)
    assert not hasattr(eventbus.EventBus, "wait")


def test_importing_loads_no_client_library() -> None:
    code = """
        import sys
        import eventbus
        eventbus.EventBus("memory://x")
        loaded = {name.partition(".")[0] for name in sys.modules}
        print(sorted(loaded & {"pynats", "pynats2", "confluent_kafka", "docker", "pytest", "nats", "hypothesis"}))
        print("eventbus.testing" in sys.modules, "eventbus.backends.nats" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split("\n")[:2] == ["[]", "False False"]


if __name__ == "__main__":
    sys.stdout.write(describe())
