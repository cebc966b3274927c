"""The public face is what was promised: a change of it is a change of the file beside this one.

To take a change over: python tests/unit/test_public_api.py > tests/unit/public_api.txt
"""

from __future__ import annotations

import difflib
import inspect
import subprocess
import sys
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
    hidden = [base for base in value.__bases__ if base.__module__.startswith("eventbus.bus_")]
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object and base not in hidden)
    head = f"class {name}({bases})" if bases else f"class {name}"
    if issubclass(value, Enum):
        return [head, *(f"    {member.name} = {member.value!r}" for member in value)]
    if attrs.has(value):
        return [head, *(f"    {_field(field)}" for field in attrs.fields(value))]
    lines = [head]
    for member, found in sorted(
        {**vars(value), **{key: one for base in hidden for key, one in vars(base).items() if key[0] != "_"}}.items()
    ):
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


def difference(wanted: str, found: str) -> str:
    """What a reader needs to see, or "" when nothing differs."""
    lines = list(difflib.unified_diff(wanted.splitlines(), found.splitlines(), "promised", "found", lineterm=""))
    if not lines:
        return ""
    return "\n".join(
        [
            "The public face has changed. Users' code depends on it: keep it, or, if that is what you want, run",
            "    python tests/unit/test_public_api.py > tests/unit/public_api.txt",
            "and say so in the commit.",
            *lines,
        ]
    )


def test_the_signatures_are_the_golden_ones() -> None:
    changed = difference(GOLDEN.read_text(encoding="utf-8"), describe())
    assert not changed, changed


def test_a_change_is_seen_and_the_text_says_what_to_do() -> None:
    golden = GOLDEN.read_text(encoding="utf-8")
    for old, new in (
        ("timeout: 'float | None' = None", "timeout: 'float' = 5.0"),
        ("jitter", "jitters"),
        ("NEW", "NOW"),
    ):
        assert old in golden
        text = difference(golden, golden.replace(old, new))
        assert "tests/unit/public_api.txt" in text
        assert new in text


def test_all_is_complete_sorted_and_true() -> None:
    public = {
        name for name, value in vars(eventbus).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(eventbus.__all__) == public
    groups = [[name for name in eventbus.__all__ if kind(name)] for kind in (str.isupper, is_class_name, str.islower)]
    assert eventbus.__all__ == [name for group in groups for name in sorted(group)], "constants, classes, functions"


def is_class_name(name: str) -> bool:
    return not name.isupper() and not name.islower()


def test_what_an_open_bus_replaces_for_speed_is_signed_as_the_method_is() -> None:
    bus = eventbus.EventBus("memory://api")
    for name in vars(bus):
        if name.startswith("_") or not callable(getattr(bus, name)):
            continue
        own = inspect.signature(getattr(bus, name))
        promised = inspect.signature(getattr(eventbus.EventBus, name)).replace(
            parameters=list(inspect.signature(getattr(eventbus.EventBus, name)).parameters.values())[1:]
        )
        assert own == promised, name


def test_everything_in_all_has_a_docstring_of_its_own() -> None:
    named = [getattr(eventbus, name) for name in eventbus.__all__]
    assert [one for one in named if callable(one) and not inspect.getdoc(one)] == []


def test_the_design_s_verbs_are_there() -> None:
    verbs = [
        *("open", "close", "publish", "publish_async", "publish_many", "publish_nowait", "flush"),
        *("subscribe", "on", "unsubscribe", "start_health_check", "stop_health_check", "reconnect", "wait_connected"),
        *("register_reconnect_callback", "unregister_reconnect_callback", "register_error_callback"),
        *("register_state_callback", "get_connection_state", "get_health_status", "get_reconnect_status"),
        *("get_statistics", "get_subscriptions", "wait"),
    ]
    missing = [verb for verb in verbs if not callable(getattr(eventbus.EventBus, verb, None))]
    assert missing == []


IMPORTED = """
import sys, threading
before = threading.active_count()
import eventbus
bus = eventbus.EventBus("memory://x")
roots = {name.partition(".")[0] for name in sys.modules}
print(sorted(roots & {"pynats", "pynats2", "nats", "confluent_kafka", "docker", "pytest", "hypothesis", "frontrun"}))
print(sorted(name for name in sys.modules if name.startswith(("eventbus.testing", "eventbus.backends.nats"))))
print(threading.active_count() - before)
print([type(handler).__name__ for handler in __import__("logging").getLogger("eventbus").handlers])
"""


def test_importing_loads_no_client_library_starts_no_thread_and_says_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines() == ["[]", "[]", "0", "['NullHandler']"]
    assert done.stderr == ""


if __name__ == "__main__":
    sys.stdout.write(describe())
