"""docs/architecture.rst is kept true: what it names is there, and no lock and no thread is left out."""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventbus
from eventbus import EventBus, MemoryConfig
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages
from eventbus.threads import OwnThread

ROOT = Path(eventbus.__file__).parent
TEXT = (ROOT.parent / "docs" / "architecture.rst").read_text(encoding="utf-8")
TOLD_ELSEWHERE = ("backends/nats/", "backends/kafka/", "testing/")
"""Where modules tell of their locks themselves."""
NOT_OURS = {"Event", "Future", "README", "SimpleQueue", "Thread"}
NAMED = set(re.findall(r"``([A-Z]\w+)(?:\.\w+)?(?:\(.*?\))?``", TEXT)) - NOT_OURS
PATHS = set(re.findall(r"``([\w/]+(?:\.py|/))``", TEXT))


def section(title: str) -> str:
    after = re.split(rf"^{title}\n-+\n", TEXT, flags=re.MULTILINE)[1]
    return re.split(r"^.+\n-{3,}\n", after, maxsplit=1, flags=re.MULTILINE)[0]


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """Each class of the library, with the path of its module."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield str(path.relative_to(ROOT)), node


def attributes_of(node: ast.ClassDef) -> set[str]:
    named = {inner.name for inner in node.body if isinstance(inner, (ast.FunctionDef, ast.ClassDef))}
    own = [inner for inner in ast.walk(node) if isinstance(inner, ast.Attribute)]
    kept = {inner.attr for inner in own if ast.unparse(inner.value) == "self"}
    return named | kept | {ast.unparse(inner.target) for inner in node.body if isinstance(inner, ast.AnnAssign)}


ATTRIBUTES: dict[str, set[str]] = {}
for _path, _node in classes():
    ATTRIBUTES.setdefault(_node.name, set()).update(attributes_of(_node))


def locks_of(node: ast.ClassDef) -> set[str]:
    """Locks that a class makes with `self.NAME = threading.Lock()` or `RLock()`."""
    return {
        f"{node.name}.{target.attr}"
        for inner in ast.walk(node)
        if isinstance(inner, ast.Assign) and ast.unparse(inner.value) in ("threading.Lock()", "threading.RLock()")
        for target in inner.targets
        if isinstance(target, ast.Attribute)
    }


def test_each_lock_has_its_place_in_the_order() -> None:
    told = section("Lock order")
    made = {lock for path, node in classes() if not path.startswith(TOLD_ELSEWHERE) for lock in locks_of(node)}
    assert len(made) > 15
    untold = {lock for lock in made if f"``{lock}``" not in told and f"``{lock.partition('.')[0]}``" not in told}
    assert not untold


@pytest.mark.parametrize("name", sorted(NAMED))
def test_what_is_named_is_there(name: str) -> None:
    assert name in ATTRIBUTES
    missing = set(re.findall(rf"``{name}\.(\w+)", TEXT)) - ATTRIBUTES[name]
    assert not missing


@pytest.mark.parametrize("path", sorted(PATHS))
def test_each_path_is_there(path: str) -> None:
    folders = (ROOT.parent, ROOT, ROOT / "backends", ROOT / "backends" / "nats", ROOT / "publishing", ROOT / "recovery")
    assert any((folder / path).exists() for folder in folders)


def test_each_thread_of_a_bus_at_work_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    started: set[str] = set()
    start = OwnThread.start
    monkeypatch.setattr(OwnThread, "start", lambda self: (started.add(self.name), start(self))[1])
    bus = EventBus(eventbus.EventBusConfig(name="told", backend=MemoryConfig(name="told")))
    called = threading.Event()
    bus.register_state_callback(lambda state: None)
    try:
        bus.open()
        bus.subscribe("topic", lambda message: None, group="group")
        bus.publish_async("topic", b"x").add_done_callback(lambda future: called.set())
        bus.reconnect()
        bus.stop_health_check()
        wait_until(lambda: called.is_set() and bus.get_statistics().handled, 5.0)
    finally:
        bus.close()
        MemoryOutages("told").forget()
    told = section("Threads")
    kinds = {re.sub(r"^eventbus\.told\.", "", name).replace("lane-topic-0", "lane-<topic>-N") for name in started}
    assert {"errands", "open", "sender", "health", "callbacks", "answers", "acknowledgements", "memory"} <= kinds
    assert not {kind for kind in kinds if f"``{kind}``" not in told}
