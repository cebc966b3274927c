"""The parts of a consumer process: what it tells and where, what it watches, which function it finds."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from eventbus import ConfigError, EventBus, Reject, stop_signals
from eventbus.cli import console as console_module
from eventbus.cli import main
from eventbus.cli.console import Console, Lines
from eventbus.cli.figures import Figures
from eventbus.cli.logs import JsonFormatter, TextFormatter, logging_to
from eventbus.cli.reloading import Watch, files_of
from eventbus.cli.running import RunOptions, run
from eventbus.cli.targets import find
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages

NAME = "consume-parts"


class Pipe:
    """A pipe, and what came out of it so far."""

    def __init__(self) -> None:
        self._out, self.into = os.pipe()
        os.set_blocking(self._out, False)
        self._data = b""

    def read(self) -> str:
        try:
            while more := os.read(self._out, 65536):
                self._data += more
        except BlockingIOError:
            pass
        return self._data.decode()

    def leave(self) -> None:
        """Read no more."""
        os.close(self._out)
        self._out = -1

    def close(self) -> None:
        os.close(self.into)
        if self._out >= 0:
            os.close(self._out)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


@pytest.fixture
def bus() -> Iterator[EventBus]:
    made = EventBus(f"memory://{NAME}?group=g")
    yield made
    made.close(5.0)
    MemoryOutages(NAME).forget()


# -- the console ---------------------------------------------------------------------------------


def test_lines_come_in_order_and_the_last_ones_before_the_end(pipe: Pipe) -> None:
    console = Console(pipe.into, live=False)
    for number in range(100):
        console.say(f"line {number}")
    console.close()
    assert pipe.read().splitlines() == [f"line {number}" for number in range(100)]


def test_the_last_line_is_drawn_again_below_what_is_said(pipe: Pipe) -> None:
    console, shown = Console(pipe.into, live=True), ["first"]
    console.draw = lambda: shown[0]
    wait_until(lambda: pipe.read() == "first")
    shown[0] = "second" + "!" * 100 + "\x1b[2J"
    wait_until(lambda: pipe.read().count("\r\x1b[K") == 1)
    console.say("a line")
    console.close()
    last = ("second" + "!" * 100)[:79]
    assert pipe.read() == f"first\r\x1b[K{last}\r\x1b[Ka line\n{last}\r\x1b[K"


def test_a_reader_that_is_stuck_costs_the_oldest_lines(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "QUEUED", 10)
    console, line = Console(pipe.into, live=False), "x" * 65536
    console.say(line)
    console.say(line)  # a pipe takes 65536 bytes: from here on the writer is stuck
    wait_until(lambda: not console._lines)
    for number in range(25):
        console.say(f"line {number}")
    wait_until(lambda: "line 24" in pipe.read())
    console.close()
    told = pipe.read().splitlines()[2:]
    assert told == ["(15 lines were dropped: nobody read them in time)", *(f"line {n}" for n in range(15, 25))]


def test_a_stuck_reader_does_not_hold_up_the_end(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "LAST_LINES", 0.1)
    console = Console(pipe.into, live=False)
    console.say("x" * 100_000)
    console.close()
    assert console._thread.is_alive()
    pipe.read()
    wait_until(lambda: not console._thread.is_alive())


def test_a_reader_that_has_gone_is_no_error(pipe: Pipe) -> None:
    console = Console(pipe.into, live=False)
    pipe.leave()
    console.say("to nobody")
    wait_until(lambda: console._broken)
    console.say("to nobody")
    console.close()


def test_a_descriptor_that_somebody_made_not_to_block_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.into, False)
    console = Console(pipe.into, live=False)
    console.say("x" * 200_000)
    wait_until(lambda: len(pipe.read()) == 200_001)
    console.close()


def test_what_is_printed_goes_by_lines(pipe: Pipe) -> None:
    console = Console(pipe.into, live=False)
    lines = Lines(console, sys.__stdout__)
    print("one", "two", file=lines)
    print("half", end="", file=lines, flush=True)
    print(" whole\nlast", end="", file=lines)
    lines.finish()
    console.close()
    assert lines.encoding == sys.__stdout__.encoding, "in all else it is what it stands for"
    assert pipe.read().splitlines() == ["one two", "half whole", "last"]


# -- logs ----------------------------------------------------------------------------------------


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("shop.orders", logging.WARNING, __file__, 1, message, args, None)
    made.__dict__ |= extra
    return made


def test_a_json_line_has_the_fields_that_were_given() -> None:
    line = JsonFormatter().format(record("no %s\nleft", "stock", topic="orders", when=Path("x"), level="mine"))
    assert "\n" not in line
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    told = {"level": "WARNING", "logger": "shop.orders", "message": "no stock\nleft", "topic": "orders", "when": "x"}
    assert found == told


def test_a_json_line_has_the_exception() -> None:
    try:
        raise ValueError("not yet")
    except ValueError:
        made = record("failed", exc_info=sys.exc_info())
    assert json.loads(JsonFormatter().format(made))["exception"].endswith("ValueError: not yet")
    assert TextFormatter().format(made).splitlines()[-1] == "ValueError: not yet"
    assert "\x1b" not in TextFormatter().format(record("\x1b[2J"))


@contextmanager
def no_handlers() -> Iterator[None]:
    """As in a program that sets up no logging; pytest does."""
    before, logging.root.handlers = logging.root.handlers, []
    try:
        yield
    finally:
        logging.root.handlers = before


def test_records_go_to_the_console_without_secrets_and_only_for_a_time(pipe: Pipe) -> None:
    console = Console(pipe.into, live=False, hide=lambda text: text.replace("s3cret", "***"))
    level = logging.root.level
    with no_handlers():
        with logging_to(console, "warning"):
            logging.getLogger("shop").warning("the password is %s", "s3cret")
            logging.getLogger("shop").info("not told")
        assert logging.root.handlers == []
    logging.getLogger("shop").warning("not any more")
    console.close()
    assert [json.loads(line)["message"] for line in pipe.read().splitlines()] == ["the password is ***"]
    assert logging.root.level == level


def test_a_program_that_has_set_up_its_logging_keeps_it(pipe: Pipe) -> None:
    console, own = Console(pipe.into, live=False), logging.NullHandler()
    with no_handlers():
        logging.root.addHandler(own)
        with logging_to(console, "debug"):
            assert logging.root.handlers == [own]
    console.close()


# -- figures -------------------------------------------------------------------------------------


def test_each_figure_changes(bus: EventBus) -> None:
    entered, release = threading.Event(), threading.Event()

    def handle(message: Any) -> None:
        if message.text() == "wait":
            entered.set()
            release.wait(10.0)
        if message.text() == "bad":
            raise Reject("no")

    bus.subscribe("t", handle)
    bus.open()
    figures = Figures(bus)
    before = figures.fields()
    assert (before["phase"], before["healthy"], before["handled"], before["rate"]) == ("connected", True, 0, 0.0)
    for text in ("good", "bad"):
        bus.publish("t", text)
    wait_until(lambda: (figures.fields()["dead_lettered"], figures.fields()["in_hand"]) == (1, 0))
    for text in ("wait", "good"):
        bus.publish("t", text)
    assert entered.wait(5.0)
    wait_until(lambda: figures.fields()["in_hand"] == 2)
    found = figures.fields()
    assert (found["handled"], found["in_hand"], found["lag"]) == (1, 2, 2)
    assert (found["failed"], found["retried"]) == (1, 0)
    assert figures.line().startswith("CONNECTED  ") and "handled 1  in hand 2  lag 2" in figures.line()
    assert "dead-lettered 1" in figures.line()
    release.set()
    wait_until(lambda: figures.fields()["handled"] == 3)
    assert figures.fields()["rate"] > 0.0  # type: ignore[operator]
    MemoryOutages(NAME).refuse()
    wait_until(lambda: figures.line().startswith("RECONNECTING"))
    assert bus.get_health_status().detail in figures.line()
    MemoryOutages(NAME).restore()


# -- what is called ------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to be in, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    yield tmp_path
    for name in [name for name, one in sys.modules.items() if str(tmp_path) in (getattr(one, "__file__", "") or "")]:
        del sys.modules[name]


def test_a_function_is_found(here: Path) -> None:
    package = here / "consumed"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "events.py").write_text("class Shop:\n    def handle(self, message): ...\nshop = Shop()\n")
    assert callable(find("consumed.events:shop.handle"))
    with pytest.raises(ConfigError, match="did you mean 'shop'"):
        find("consumed.events:shap")
    with pytest.raises(ConfigError, match="is a class"):
        find("consumed.events:Shop")
    for wrong in ("consumed.events", ":x", "consumed.events:"):
        with pytest.raises(ConfigError, match="module:function"):
            find(wrong)


def test_a_module_that_is_not_there_is_told_from_one_that_cannot_be_imported(here: Path) -> None:
    (here / "consumed_badly.py").write_text("import not_there_at_all\n")
    for missing in ("not_there", "json.not_there", "not_there.events"):
        with pytest.raises(ConfigError, match="no module"):
            find(f"{missing}:x")
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        find("consumed_badly:x")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["json:dumps"], "--topic"),
        (["json:dumps", "--topic", "a b"], "bad topic"),
        (["json:dumps", "--topic", "a", "--concurrency", "0"], "concurrency"),
        (["json:dumps", "--topic", "a", "--batch", "x", "1"], "--batch"),
        (["json:dumps", "--topic", "a", "--start", "soon"], "earliest"),
        (["json:dumps", "--topic", "a", "--interval", "0"], "more than 0"),
        (["json:dumps", "--topic", "a", "--dead-letter", "x", "--no-dead-letter"], "not allowed"),
        (["json:dumps", "--topic", "a", "--close-timeout", "-1"], "more than 0"),
    ],
)
def test_bad_arguments_are_named(words: list[str], told: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["consume", *words, "--url", "memory://x", "--group", "g"]) == 2
    err = capfd.readouterr().err
    assert told in err
    assert "Traceback" not in err


def test_the_page_names_each_option_and_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "consumer.rst").read_text(encoding="utf-8")
    assert main(["consume", "--help"]) == 0 and main(["status", "--help"]) == 0
    offered = set(re.findall(r"--[a-z][a-z-]+", capfd.readouterr().out))
    assert set(re.findall(r"--[a-z][a-z-]+", page)) == offered - {"--help"}


# -- running -------------------------------------------------------------------------------------


def on_a_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_it_runs_until_a_signal(bus: EventBus, capfd: pytest.CaptureFixture[str]) -> None:
    handled: list[str] = []

    def end() -> None:
        wait_until(lambda: handled)
        os.kill(os.getpid(), signal.SIGTERM)

    def make() -> EventBus:
        bus.subscribe("t", lambda message: handled.append(message.text()))
        return bus

    helper = on_a_thread(lambda: (bus.open(), bus.publish("t", "x"), end()))
    before = signal.getsignal(signal.SIGTERM)
    assert run(make, RunOptions(as_json=True)) == 0
    assert signal.getsignal(signal.SIGTERM) is before
    helper.join()


def test_what_is_wrong_goes_through_and_leaves_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    def make() -> EventBus:
        raise ConfigError("no such thing")

    with pytest.raises(ConfigError, match="no such thing"):
        run(make, RunOptions())
    assert not stop_signals._entered


def test_a_signal_before_there_is_a_bus(capfd: pytest.CaptureFixture[str]) -> None:
    def make() -> EventBus:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(10.0)
        raise AssertionError("not reached")

    with pytest.raises(SystemExit) as ended:
        run(make, RunOptions())
    assert ended.value.code == 128 + signal.SIGINT


# -- reloading -----------------------------------------------------------------------------------


def test_a_changed_file_is_noticed_once_it_is_whole(tmp_path: Path) -> None:
    changed = threading.Event()
    file, beside = tmp_path / "a.py", tmp_path / "a.new"
    file.write_text("x = 1\n")
    watch = Watch(changed.set, [str(file), str(tmp_path / "comes_later.py")])
    file.unlink()
    assert watch._look() == "", "an editor is about to put another one there"
    beside.write_text("x = 2\n")
    beside.replace(file)
    assert changed.wait(10.0)
    watch.close()
    assert watch.changed == str(file)


def test_the_files_of_a_failure(here: Path) -> None:
    (here / "consumed_syntax.py").write_text("x = ]\n")
    (here / "consumed_outer.py").write_text("import consumed_syntax\n")
    with pytest.raises(SyntaxError) as caught:
        find("consumed_outer:x")
    assert {str(here / name) for name in ("consumed_syntax.py", "consumed_outer.py")} <= files_of(caught.value)


# -- status --------------------------------------------------------------------------------------


def test_status_says_what_was_measured(bus: EventBus, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--url", f"memory://{NAME}", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["backend"], found["phase"], found["healthy"]) == ("memory", "connected", True)
    assert "replays" in found["features"] and found["connected_in"] >= 0.0
    assert main(["status", "--url", f"memory://{NAME}"]) == 0
    assert "phase         connected" in capfd.readouterr().out


def test_status_without_a_broker(capfd: pytest.CaptureFixture[str]) -> None:
    url = "nats://me:s3cret@127.0.0.1:1"
    assert main(["status", "--url", url, "--timeout", "1", "--json"]) == 1
    told = capfd.readouterr()
    found = json.loads(told.out)
    assert (found["healthy"], found["connected_in"], "refused" in found["detail"]) == (False, None, True)
    assert "s3cret" not in told.out + told.err
    assert main(["status", "--url", "what://x"]) == 2
