"""The house keeps its floors: who may import whom, and what only one place may do."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import eventbus

ROOT = Path(eventbus.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in MODULES}

VOCABULARY = {"config", "config_fields", "config_sources", "errors", "gate", "message", "state", "threads"}
MAY_IMPORT = {
    "vocabulary": {"vocabulary"},
    "publishing": {"vocabulary", "publishing"},
    "consuming": {"vocabulary", "consuming"},
    "backends": {"vocabulary", "publishing", "consuming", "backends"},
    "recovery": {"vocabulary", "publishing", "consuming", "backends", "recovery"},
    "bus": {"vocabulary", "publishing", "consuming", "backends", "recovery"},
    "globals": {"vocabulary", "bus"},
    "package": {"vocabulary", "bus", "globals", "consuming"},
    "testing": {
        "vocabulary",
        "publishing",
        "consuming",
        "backends",
        "recovery",
        "bus",
        "globals",
        "package",
        "testing",
    },
    "ext": {"vocabulary", "consuming", "bus", "globals", "package", "ext"},
    "cli": {"vocabulary", "bus", "globals", "package", "cli"},
}
LONGEST_MODULE = 400
LONGEST_FUNCTION = 40


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["eventbus", *(part for part in parts if part != "__init__")])


def layer_of(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 1:
        return "package"
    return "vocabulary" if parts[1] in VOCABULARY else {"__main__": "cli"}.get(parts[1], parts[1])


def imports_of(path: Path) -> set[str]:
    """Absolute names of everything a module imports, wherever in it, type-checking blocks included."""
    found = set()
    package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{target}.{alias.name}" for alias in node.names} | {target}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return found


def ours(names: set[str]) -> set[str]:
    known = {name_of(path) for path in MODULES}
    return {name for name in names if name in known and (name != "eventbus")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    layer = layer_of(name_of(path))
    wrong = {name for name in ours(imports_of(path)) if layer_of(name) not in MAY_IMPORT[layer]}
    assert not wrong, f"{layer} may not import {sorted(wrong)}"


def test_the_walk_sees_relative_and_nested_imports() -> None:
    health = ROOT / "recovery" / "health.py"
    assert "eventbus.recovery.supervisor" in imports_of(health)
    assert "pynats2" in imports_of(ROOT / "backends" / "nats" / "pynats.py"), "by name"
    assert "eventbus.backends.memory" in imports_of(ROOT / "backends" / "__init__.py"), "an import within a function"
    assert layer_of("eventbus.recovery.supervisor") == "recovery"


@pytest.mark.parametrize(
    ("library", "places"),
    [
        ("tenacity", {"eventbus.recovery.backoff"}),
        ("pynats2", {"eventbus.backends.nats.pynats"}),
        ("pynats", {"eventbus.backends.nats.pynats"}),
        ("confluent_kafka", set()),
        ("nats", set()),
    ],
)
def test_a_library_is_imported_in_one_place(library: str, places: set[str]) -> None:
    found = {
        name_of(path)
        for path in MODULES
        if any(name == library or name.startswith(f"{library}.") for name in imports_of(path))
    }
    assert found <= places


def calls_of(path: Path) -> list[tuple[int, str]]:
    return [(node.lineno, ast.unparse(node.func)) for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_sleeps_but_the_tools_for_tests(path: Path) -> None:
    if layer_of(name_of(path)) == "testing":
        return
    assert [call for call in calls_of(path) if call[1] in ("time.sleep", "sleep")] == []
    assert "time.sleep" not in imports_of(path)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_supervisor_connects(path: Path) -> None:
    """A backend makes one attempt; the loop around it is recovery's."""
    if "backends" not in path.parts:
        return
    for loop in ast.walk(TREES[path]):
        if isinstance(loop, (ast.While, ast.For)):
            names = {ast.unparse(node.func) for node in ast.walk(loop) if isinstance(node, ast.Call)}
            assert not {name for name in names if name in ("self.connect", "backend.connect", "self._backend.connect")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_stay_small(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST_MODULE, f"{lines} lines"
    for node in ast.walk(TREES[path]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_things_have_a_docstring(path: Path) -> None:
    if any(part.startswith("_") and part != "__init__" for part in name_of(path).split(".")):
        return
    assert ast.get_docstring(TREES[path]), "the module has none"
    public = [
        node.name
        for parent in [TREES[path], *(node for node in TREES[path].body if isinstance(node, ast.ClassDef))]
        for node in parent.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        and not node.name.startswith(("_", "test_"))
        and not ast.get_docstring(node)
        and not (isinstance(parent, ast.ClassDef) and parent.name.startswith("_"))
        and not (isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Expr) and len(node.body) == 1)
    ]
    assert public == []


def test_all_is_complete_and_sorted() -> None:
    public = {
        name
        for name, value in vars(eventbus).items()
        if not name.startswith("_") and not isinstance(value, type(eventbus))
    }
    assert set(eventbus.__all__) == public
    assert len(eventbus.__all__) == len(set(eventbus.__all__))
    assert all(hasattr(eventbus, name) for name in eventbus.__all__)


@pytest.mark.parametrize("path", [path for path in MODULES if "testing" not in path.parts], ids=name_of)
def test_every_module_can_be_imported(path: Path) -> None:
    assert importlib.import_module(name_of(path))
