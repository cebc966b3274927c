"""`eventbus consume --reload`: the program starts again when one of its files has changed, behind a drain."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from consume_support import START, Program, consume

from eventbus import EventBus
from eventbus.testing import NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(90)]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    (tmp_path / "words.py").write_text("WORD = 'old'\n", encoding="utf-8")
    return Program(tmp_path, SAYING)


SAYING = """
    from words import WORD

    def say(message):
        note(WORD + " " + message.text())
"""


def change(program: Program, text: str) -> None:
    """As an editor does: written beside, then put in the place of the other one."""
    beside = program.folder / "words.new"
    beside.write_text(text, encoding="utf-8")
    beside.replace(program.folder / "words.py")


def test_a_change_of_an_imported_module(program: Program, nats_server: NatsServer) -> None:
    with consume(program, "say", nats_server.url, "--reload") as process, EventBus(nats_server.url) as bus:
        bus.publish("orders.new", "1")
        wait_until(lambda: program.seen() == ["old 1"], START)
        change(program, "WORD = 'new'\n")
        process.wait_said("words.py has changed: starting again")
        bus.publish("orders.new", "2")
        wait_until(lambda: program.seen() == ["old 1", "new 2"], START)
        process.send()
        assert process.end() == 0, process.text
    assert "closed: all that was in hand is handled" in process.text
    assert program.seen() == ["old 1", "new 2"]


def test_what_handlers_have_printed_is_not_lost(program: Program, nats_server: NatsServer) -> None:
    """To a file or pipe it is written when there is much of it; another program in this one's place knows of none."""
    printed = program.folder / "printed"
    with (
        printed.open("wb") as file,
        consume(program, "show", nats_server.url, "--reload", stdout=file.fileno()) as process,
        EventBus(nats_server.url) as bus,
    ):
        bus.publish("orders.new", "1")
        wait_until(lambda: program.seen() == ["1"], START)
        change(program, "WORD = 'new'\n")
        process.wait_said("words.py has changed: starting again")
        bus.publish("orders.new", "2")
        wait_until(lambda: program.seen() == ["1", "2"], START)
        process.send()
        assert process.end() == 0, process.text
    assert printed.read_text() == "shown 1\nshown 2\n"


def test_what_runs_is_finished_first(program: Program, nats_server: NatsServer) -> None:
    with consume(program, "hold", nats_server.url, "--reload") as process, EventBus(nats_server.url) as bus:
        bus.publish("orders.new", "1")
        wait_until(lambda: program.seen() == ["begins 1"], START)
        change(program, "WORD = 'new'\n")
        process.wait_said("a stop was asked for: closing")
        program.release()
        process.wait_said("starting again")
        process.send(signal.SIGINT)
        process.end(START)
    assert program.handled() == {"1": 1}


def test_a_broken_program_waits_until_it_is_mended(program: Program, nats_server: NatsServer) -> None:
    change(program, "WORD = ]\n")
    with consume(program, "say", nats_server.url, "--reload") as process, EventBus(nats_server.url) as bus:
        process.wait_said("SyntaxError")
        change(program, "WORD = 'mended'\n")
        bus.publish("orders.new", "1")
        wait_until(lambda: program.seen() == ["mended 1"], START)
        process.send()
        assert process.end() == 0, process.text


def test_a_signal_ends_it_while_it_waits_to_be_mended(program: Program, nats_server: NatsServer) -> None:
    change(program, "WORD = ]\n")
    with consume(program, "say", nats_server.url, "--reload") as process:
        process.wait_said("SyntaxError")
        process.send()
        assert process.end() == 0, process.text
