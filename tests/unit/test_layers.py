"""The house keeps its floors: who may import whom, and what only one place may do.

Each rule is a function of one module's name and text, so that it can be shown a bad one too.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import eventbus

ROOT = Path(eventbus.__file__).parent


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["eventbus", *(part for part in parts if part != "__init__")])


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}

VOCABULARY = {
    *(
        "callables",
        "config",
        "config_delivery",
        "config_environment",
        "config_fields",
        "config_kafka",
        "config_sources",
        "copies",
        "config_tls",
        "ends",
        "errands",
        "errors",
        "features",
        "fields",
        "forks",
        "gate",
        "greenlets",
        "kafka_token",
        "log",
        "message",
        "middleware",
        "names",
        "outages",
        "pem",
        "reports",
        "secret_sources",
        "state",
        "stop_signals",
        "threads",
        "workers",
    ),
}
UP_TO_BACKENDS = {"vocabulary", "publishing", "consuming", "backends"}
MAY_IMPORT = {
    "vocabulary": {"vocabulary"},
    "publishing": {"vocabulary", "publishing"},
    "consuming": {"vocabulary", "consuming"},
    "backends": UP_TO_BACKENDS,
    "deduplication": {"vocabulary", "consuming", "deduplication"},
    "recovery": UP_TO_BACKENDS | {"recovery"},
    "bus": UP_TO_BACKENDS | {"recovery", "bus"},
    "globals": {"vocabulary", "bus"},
    "package": {"vocabulary", "consuming", "deduplication", "bus", "globals"},
    "testing": UP_TO_BACKENDS | {"recovery", "bus", "globals", "package", "testing"},
    "ext": {"vocabulary", "consuming", "bus", "globals", "package", "cli", "ext"},
    "cli": {"vocabulary", "bus", "globals", "package", "cli"},
}
"""Which layer may import which. "package" is `eventbus/__init__.py`."""
HOME_OF = {
    "tenacity": {"eventbus.recovery.backoff"},
    "pynats2": {"eventbus.backends.nats.link.pynats"},
    "nkeys": {"eventbus.backends.nats.link.credentials"},
    "pynats": {"eventbus.backends.nats.link.pynats"},
    "confluent_kafka": {name for name in MODULES if name.startswith("eventbus.backends.kafka.")},
    "nats": set(),
    "django": {name for name in MODULES if name.startswith("eventbus.ext.django")},
}
ROOMS = {
    "eventbus.backends.nats": ["link", "core", "jetstream", "backend"],
    "eventbus.backends.kafka": [
        "names",
        "clients",
        "topics",
        "catalogue",
        "publishing",
        "consuming",
        "metadata",
        "session",
        "backend",
    ],
}
"""Inside a backend: each room imports from itself and those in front of it."""
LONGEST_MODULE = 400
LONGEST_FUNCTION = 40

Rule = Callable[[str, str], list[str]]
"""Takes the name and the text of a module; says what is wrong with it."""


def layer_of(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 1:
        return "package"
    return (
        "vocabulary"
        if parts[1] in VOCABULARY
        else {
            "__main__": "cli",
            **dict.fromkeys(("bus_dead_letters", "bus_status", "bus_waiting", "wiring"), "bus"),
        }.get(parts[1], parts[1])
    )


def nodes_of(text: str, typing_too: bool = False) -> Iterator[ast.AST]:
    """All of a module but what stands in `if TYPE_CHECKING:`, unless that is wanted too."""
    waiting: list[ast.AST] = [ast.parse(text)]
    while waiting:
        node = waiting.pop()
        yield node
        if typing_too:
            waiting.extend(ast.iter_child_nodes(node))
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def imports_of(module: str, text: str, typing_too: bool = False) -> set[str]:
    """Absolute names of all that a module imports when it runs, wherever in it the import stands."""
    package = module.split(".") if module in PACKAGES else module.split(".")[:-1]
    found: set[str] = set()
    for node in nodes_of(text, typing_too):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            members = {f"{target}.{alias.name}" for alias in node.names}
            found |= members if members <= MODULES.keys() else members | {target}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return found


def calls_in(node: ast.AST) -> set[str]:
    return {ast.unparse(inner.func) for inner in ast.walk(node) if isinstance(inner, ast.Call)}


def identifiers_in(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        for attribute in ("id", "attr", "name", "arg", "asname"):
            value = getattr(inner, attribute, None)
            if isinstance(value, str):
                yield value


# -- the rules -----------------------------------------------------------------------------------


def imports_go_one_way(module: str, text: str) -> list[str]:
    """Down the house, never up, never sideways between publishing and consuming."""
    allowed = MAY_IMPORT[layer_of(module)]
    ours = {name for name in imports_of(module, text) if name in MODULES and name != "eventbus"}
    return [f"{name} is not below {module}" for name in sorted(ours) if layer_of(name) not in allowed]


def rooms_go_one_way(module: str, text: str) -> list[str]:
    """Inside a backend as in the house: a link knows of no session, and core NATS of no JetStream."""
    for house, rooms in ROOMS.items():
        here = module.removeprefix(f"{house}.").partition(".")[0]
        if module.startswith(f"{house}.") and here in rooms:
            later = tuple(f"{house}.{room}" for room in rooms[rooms.index(here) + 1 :])
            return [f"{module} imports {name}" for name in sorted(imports_of(module, text)) if name.startswith(later)]
    return []


def a_library_is_imported_in_one_place(module: str, text: str) -> list[str]:
    """The test tools may use a client library: they are servers' friends."""
    roots = {name.partition(".")[0] for name in imports_of(module, text)}
    return [
        f"{module} imports {library}"
        for library in sorted(roots & set(HOME_OF))
        if module not in HOME_OF[library] and not (layer_of(module) == "testing" and library != "tenacity")
    ]


def nothing_sleeps(module: str, text: str) -> list[str]:
    """The library waits on stop tokens and deadlines: a sleep cannot be interrupted."""
    if layer_of(module) == "testing":
        return []
    slept = {"time.sleep", "sleep"} & calls_in(ast.parse(text))
    return sorted(slept | ({"time.sleep"} & imports_of(module, text)))


def no_queue_is_waited_at_with_a_bound(module: str, text: str) -> list[str]:
    """`SimpleQueue.get` with a timeout may wait for ever: see `eventbus.threads.Mailbox`."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    gets = [one for one in calls if isinstance(one.func, ast.Attribute) and one.func.attr == "get"]
    bounded = [one for one in gets if {word.arg for word in one.keywords} & {"timeout", "block"}]
    switched = [one for one in gets if one.args and isinstance(one.args[0], ast.Constant) and one.args[0].value is True]
    return [f"line {one.lineno}: {ast.unparse(one)}" for one in (*bounded, *switched)]


def backends_do_not_try_again(module: str, text: str) -> list[str]:
    """One attempt for each connect; trying again and counting is recovery's."""
    if layer_of(module) != "backends":
        return []
    tree, wrong = ast.parse(text), []
    for loop in ast.walk(tree):
        if isinstance(loop, (ast.While, ast.For)):
            for attempt in ast.walk(loop):
                tried = isinstance(attempt, ast.Try) and attempt.handlers
                if tried and any(call.rpartition(".")[2] == "connect" for call in calls_in(attempt)):
                    wrong.append(f"line {attempt.lineno}: connect in a loop that catches")
        counts = isinstance(loop, ast.AugAssign) and re.search("fail", ast.unparse(loop.target), re.IGNORECASE)
        if counts:
            wrong.append(f"line {loop.lineno}: counts failures")
    words = re.compile("reconnect|backoff|fail(ure)?_?count|consecutive", re.IGNORECASE)
    return wrong + sorted({f"a thing is called {name}" for name in identifiers_in(tree) if words.search(name)})


def modules_and_functions_are_small(module: str, text: str) -> list[str]:
    """From `def` to the end, docstring included."""
    lines = len(text.splitlines())
    wrong = [f"{module} has {lines} lines"] if lines > LONGEST_MODULE else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                wrong.append(f"{node.name} has {length} lines")
    return wrong


def public_things_have_a_docstring(module: str, text: str) -> list[str]:
    """All but test methods, and the stubs of a protocol, whose class says what they are for."""
    if any(part.startswith("_") for part in module.split(".")):
        return []
    tree = ast.parse(text)
    wrong = [] if ast.get_docstring(tree) else [f"{module} itself"]
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        prefix, parent = waiting.pop()
        for node in getattr(parent, "body", []):
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            stub = len(node.body) == 1 and ast.unparse(node.body[0]) == "..."
            if node.name.startswith(("_", "test_")) or stub:
                continue
            if not ast.get_docstring(node):
                wrong.append(f"{prefix}{node.name}")
            if isinstance(node, ast.ClassDef):
                waiting.append((f"{node.name}.", node))
    return wrong


def docstrings_say_what_is_promised_here(module: str, text: str) -> list[str]:
    """Not only "As `X`": whoever reads it in the place where it stands has not read the other one."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    return [one for one in found if re.match("As (`|:[a-z]+:|the base)", one)]


def a_class_says_what_it_is(module: str, text: str) -> list[str]:
    """By a first sentence that stands alone in `help()`: not whose it is, nor what one of its attributes is."""
    classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    stumps = re.compile(r"(Of|See|Those of|As) |The same\b|Not locked|(?!Internal)\w+(, \w+)*: ")
    return [node.name for node in classes if stumps.match(ast.get_docstring(node) or "")]


def loggers_come_from_one_place(module: str, text: str) -> list[str]:
    """A logger of the logging module raises what a handler of somebody else raises, and ends a thread of ours."""
    if layer_of(module) in ("package", "testing") or module == "eventbus.log":
        return []
    raw = {"getLogger", "log", "debug", "info", "warning", "error", "exception", "critical"}
    used = {"logging." + name for name in raw} | {"getLogger"}
    return sorted(used & (calls_in(ast.parse(text)) | imports_of(module, text)))


RULES: list[Rule] = [
    imports_go_one_way,
    rooms_go_one_way,
    a_library_is_imported_in_one_place,
    nothing_sleeps,
    no_queue_is_waited_at_with_a_bound,
    backends_do_not_try_again,
    modules_and_functions_are_small,
    public_things_have_a_docstring,
    docstrings_say_what_is_promised_here,
    a_class_says_what_it_is,
    loggers_come_from_one_place,
]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_every_rule(rule: Rule, module: str) -> None:
    assert rule(module, MODULES[module].read_text(encoding="utf-8")) == []


# -- the rules can fail --------------------------------------------------------------------------

DOC = '"""What it is."""\n'
RETRY = "while True:\n    try:\n        session = {call}()\n    except OSError:\n        continue\n"


@pytest.mark.parametrize(
    ("rule", "module", "bad"),
    [
        (imports_go_one_way, "eventbus.state", "from .publishing.pending import Pending"),
        (imports_go_one_way, "eventbus.message", "import eventbus.bus"),
        (imports_go_one_way, "eventbus.publishing.pending", "from ..consuming.lanes import Lanes"),
        (imports_go_one_way, "eventbus.publishing.pending", "from ..consuming import lanes"),
        (imports_go_one_way, "eventbus.consuming.lanes", "def late():\n    from ..backends.base import Session"),
        (imports_go_one_way, "eventbus.backends.base", "from ..recovery import backoff"),
        (imports_go_one_way, "eventbus.backends.nats.link.wire", "from ....recovery.backoff import retrying"),
        (imports_go_one_way, "eventbus.backends", "from ..recovery.health import HealthMonitor"),
        (imports_go_one_way, "eventbus.recovery.health", "from ..bus import EventBus"),
        (imports_go_one_way, "eventbus.bus", "from . import globals"),
        (imports_go_one_way, "eventbus.bus", "importlib.import_module('eventbus.testing')"),
        (imports_go_one_way, "eventbus.globals", "from .recovery.health import HealthMonitor"),
        (imports_go_one_way, "eventbus", "from .testing import wait_until"),
        (imports_go_one_way, "eventbus.state", "if TYPE_CHECKING:\n    pass\nelse:\n    from .bus import EventBus"),
        (a_library_is_imported_in_one_place, "eventbus.recovery.health", "import tenacity"),
        (a_library_is_imported_in_one_place, "eventbus.testing.faults", "from tenacity.stop import stop_base"),
        (rooms_go_one_way, "eventbus.backends.nats.link.wire", "from ..core.session import NatsSession"),
        (rooms_go_one_way, "eventbus.backends.nats.core.session", "from ..jetstream.pulls import Pull"),
        (a_library_is_imported_in_one_place, "eventbus.backends.nats.core.session", "from pynats2 import NATSClient"),
        (a_library_is_imported_in_one_place, "eventbus.bus", "__import__('nats')"),
        (a_library_is_imported_in_one_place, "eventbus.bus", "def late():\n    import confluent_kafka.admin"),
        (a_library_is_imported_in_one_place, "eventbus.backends.kafka", "from confluent_kafka import Producer"),
        (
            a_library_is_imported_in_one_place,
            "eventbus.backends.nats.link.wire",
            "from confluent_kafka import Producer",
        ),
        (nothing_sleeps, "eventbus.recovery.health", "import time\ntime.sleep(1)"),
        (nothing_sleeps, "eventbus.threads", "from time import sleep as pause"),
        (no_queue_is_waited_at_with_a_bound, "eventbus.threads", "def f(q): q.get(timeout=1.0)"),
        (no_queue_is_waited_at_with_a_bound, "eventbus.threads", "def f(q): q.get(True, 1.0)"),
        (backends_do_not_try_again, "eventbus.backends.nats.core.session", RETRY.format(call="self._backend.connect")),
        (backends_do_not_try_again, "eventbus.backends.nats.core.session", RETRY.format(call="connect")),
        (backends_do_not_try_again, "eventbus.backends.memory.session", "class A:\n    def reconnect(self): ..."),
        (backends_do_not_try_again, "eventbus.backends.memory.session", "self.failures += 1"),
        (backends_do_not_try_again, "eventbus.backends.memory.session", "def f(max_backoff): ..."),
        (backends_do_not_try_again, "eventbus.backends.memory.session", "self.consecutive = 0"),
        (modules_and_functions_are_small, "eventbus.bus", "x = 1\n" * 401),
        (modules_and_functions_are_small, "eventbus.bus", "def f():\n" + "    x = 1\n" * 40),
        (modules_and_functions_are_small, "eventbus.bus", "class A:\n  def f(self):\n" + "    x = 1\n" * 40),
        (public_things_have_a_docstring, "eventbus.bus", "x = 1"),
        (public_things_have_a_docstring, "eventbus.bus", f"{DOC}def f(): return 1"),
        (public_things_have_a_docstring, "eventbus.bus", f"{DOC}class A:\n    x = 1"),
        (public_things_have_a_docstring, "eventbus.bus", f"{DOC}class A:\n    {DOC}    def f(self): return 1"),
        (public_things_have_a_docstring, "eventbus.bus", f"{DOC}class A:\n    {DOC}    class B:\n        x = 1"),
        (docstrings_say_what_is_promised_here, "eventbus.bus", '"""As `Other`."""'),
        (docstrings_say_what_is_promised_here, "eventbus.bus", 'class A:\n    """As :class:`Other`, but bigger."""'),
        (docstrings_say_what_is_promised_here, "eventbus.bus", 'def _f():\n    """As the base class."""'),
        (a_class_says_what_it_is, "eventbus.bus", 'class A:\n    """Of one bus. b: its name."""'),
        (a_class_says_what_it_is, "eventbus.bus", 'class _A:\n    """name, size: of one message."""'),
        (a_class_says_what_it_is, "eventbus.bus", 'class A:\n    """OPEN: all may pass. SHUT: none."""'),
        (loggers_come_from_one_place, "eventbus.state", "import logging\nlogger = logging.getLogger(__name__)"),
        (loggers_come_from_one_place, "eventbus.bus", "from logging import getLogger\nlogger = getLogger(__name__)"),
        (loggers_come_from_one_place, "eventbus.bus", "def f():\n    logging.warning('past the loggers')"),
    ],
)
def test_a_rule_sees_what_breaks_it(rule: Rule, module: str, bad: str) -> None:
    assert rule(module, bad) != []


@pytest.mark.parametrize(
    ("rule", "module", "good"),
    [
        (imports_go_one_way, "eventbus.errors", "if TYPE_CHECKING:\n    from .bus import EventBus"),
        (imports_go_one_way, "eventbus.errors", "if typing.TYPE_CHECKING:\n    from .bus import EventBus"),
        (imports_go_one_way, "eventbus.recovery.health", "from ..backends.base import Session"),
        (imports_go_one_way, "eventbus.backends.nats.link.wire", "import json\nfrom ....errors import ConfigError"),
        (imports_go_one_way, "eventbus.testing.memory", "from eventbus.backends.memory.broker import broker_named"),
        (nothing_sleeps, "eventbus.testing.wait", "import time\ntime.sleep(1)"),
        (nothing_sleeps, "eventbus.recovery.health", "stop.wait(1)"),
        (backends_do_not_try_again, "eventbus.recovery.supervisor", RETRY.format(call="self._backend.connect")),
        (backends_do_not_try_again, "eventbus.backends.nats.link.dialing", RETRY.format(call="next_server.dial")),
        (backends_do_not_try_again, "eventbus.backends.nats.link.dialing", "for one in all:\n    one.connect()"),
        (modules_and_functions_are_small, "eventbus.bus", "x = 1\n" * 400),
        (modules_and_functions_are_small, "eventbus.bus", "def f():\n" + "    x = 1\n" * 39),
        (
            public_things_have_a_docstring,
            "eventbus.bus",
            f"{DOC}def _f(): return 1\nclass _A:\n    def f(self): return 1",
        ),
        (public_things_have_a_docstring, "eventbus.testing._links", "def f(): return 1"),
        (docstrings_say_what_is_promised_here, "eventbus.bus", '"""As long as it waits, `f` may be called."""'),
        (a_class_says_what_it_is, "eventbus.bus", 'class A:\n    """The name of one bus: given by the user. b: it."""'),
        (a_class_says_what_it_is, "eventbus.bus", 'class A:\n    """One bus.\n\n    name: of it.\n    """'),
        (loggers_come_from_one_place, "eventbus.log", "logger = logging.getLogger(name)"),
        (loggers_come_from_one_place, "eventbus", "logging.getLogger(__name__).addHandler(logging.NullHandler())"),
        (loggers_come_from_one_place, "eventbus.bus", "logger = log.get(__name__)\nlogger.log(logging.INFO, 'x')"),
    ],
)
def test_a_rule_lets_pass_what_keeps_it(rule: Rule, module: str, good: str) -> None:
    assert rule(module, good) == []


def circle_in(texts: Mapping[str, str]) -> list[str]:
    """Modules that import each other in a circle, be it for their types only; none when there is no such circle."""
    graph: dict[str, set[str]] = {}
    for module, text in texts.items():
        graph[module] = imports_of(module, text, typing_too=True) & texts.keys() - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(name) for name in error.args[1]]
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    texts = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}
    assert circle_in(texts) == []


@pytest.mark.parametrize(
    "texts",
    [
        {"eventbus.state": "from .message import Message", "eventbus.message": "from . import state"},
        {"eventbus.state": "from .message import A", "eventbus.message": "if TYPE_CHECKING:\n    from .state import B"},
        {"eventbus.state": "def f():\n    import eventbus.message", "eventbus.message": "from .state import B"},
        {
            "eventbus.state": "from .message import A",
            "eventbus.message": "from .errors import B",
            "eventbus.errors": "from .state import C",
        },
        {
            "eventbus.backends": "from .base import Session",
            "eventbus.backends.base": "from ..backends import Anything",
        },
    ],
)
def test_a_circle_is_seen(texts: dict[str, str]) -> None:
    assert len(circle_in(texts)) > 2


def test_a_package_that_imports_its_modules_is_no_circle() -> None:
    texts = {"eventbus.backends": "from . import base", "eventbus.backends.base": "from .memory import session"}
    assert circle_in(texts | {"eventbus.backends.memory.session": "from ..base import A"}) != []
    assert circle_in(texts | {"eventbus.backends.memory.session": "import json"}) == []


def test_every_rule_is_shown_to_fail() -> None:
    marks = test_a_rule_sees_what_breaks_it.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == set(RULES)


def test_the_walk_sees_the_modules_and_what_they_import() -> None:
    def seen(module: str) -> set[str]:
        return imports_of(module, MODULES[module].read_text(encoding="utf-8"))

    assert len(MODULES) > 50
    assert {layer_of(module) for module in MODULES} <= set(MAY_IMPORT)
    assert "eventbus.recovery.supervisor" in seen("eventbus.recovery.health")
    assert "pynats2" in seen("eventbus.backends.nats.link.pynats"), "by name"
    assert "tenacity" in seen("eventbus.recovery.backoff")
    assert "eventbus.backends.memory" in seen("eventbus.backends"), "an import within a function"


@pytest.mark.parametrize("module", [module for module in MODULES if layer_of(module) != "testing"])
def test_every_module_can_be_imported(module: str) -> None:
    assert importlib.import_module(module)
