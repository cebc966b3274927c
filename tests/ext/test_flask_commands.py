"""`flask eventbus consume` and `flask eventbus status`."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("flask")

from consume_support import QUICK, START, Process, Program
from flask_support import Apps, bus_of

from eventbus import BROADCAST, EventBus, Message, Phase
from eventbus.ext.flask import FlaskEventBus
from eventbus.testing import NatsServer, wait_until

APP = """
from flask import Flask, current_app
from eventbus.ext.flask import FlaskEventBus

events = FlaskEventBus(handle_in_web=False)

@events.on("orders.new", group="shop")
def bill(message):
    assert current_app.name == "shop"
    current_app.logger.warning("logged in with s3cret")
    hold(message)

def create_app():
    app = Flask("shop")
    app.config.update(EVENTBUS_URL={url!r}, EVENTBUS_CLOSE_TIMEOUT=30)
    app.config.update(EVENTBUS_USER="shop", EVENTBUS_PASSWORD="s3cret")
    events.init_app(app)
    return app
"""


@pytest.fixture
def apps() -> Iterator[Apps]:
    with Apps() as made:
        yield made


# -- status --------------------------------------------------------------------------------------


def test_status_says_how_connecting_went_and_joins_no_group(apps: Apps) -> None:
    events = FlaskEventBus()
    events.subscribe("orders.*", print, group="billing")
    events.subscribe("news", print, group=BROADCAST)
    app = apps.make(events)
    done = app.test_cli_runner().invoke(args=["eventbus", "status"])
    assert done.exit_code == 0, done.output
    assert "status: ready" in done.output
    assert "handlers: orders.* (group billing), news (broadcast)" in done.output
    assert bus_of(app).get_connection_state().phase is Phase.CLOSED
    assert bus_of(app).get_subscriptions() == ()


def test_status_is_json_when_asked(apps: Apps) -> None:
    done = apps.make().test_cli_runner().invoke(args=["eventbus", "status", "--json"])
    assert (done.exit_code, json.loads(done.output)["phase"]) == (0, "connected")


@pytest.mark.nats
def test_status_of_a_server_that_is_away(apps: Apps, nats_server: NatsServer) -> None:
    nats_server.kill()
    started = time.monotonic()
    runner = apps.make(url=nats_server.url).test_cli_runner()
    done = runner.invoke(args=["eventbus", "status", "--timeout", "0.5"])
    assert time.monotonic() - started < 0.5 + QUICK
    assert done.exit_code == 1
    assert "Connection refused" in done.output


# -- consume -------------------------------------------------------------------------------------


def test_consume_runs_where_its_output_is_no_file(apps: Apps) -> None:
    """As in the tests of an application, with Flask's own runner."""
    events = FlaskEventBus()
    seen: list[str] = []

    @events.on("orders.*", group="billing")
    def bill(message: Message) -> None:
        seen.append(message.text())
        events.bus.close()

    app = apps.make(events)
    with EventBus(app.config["EVENTBUS_URL"]) as bus:
        bus.publish("orders.new", "1")
        done = app.test_cli_runner().invoke(args=["eventbus", "consume"])
    assert (done.exit_code, done.exception) == (0, None), done.output
    assert seen == ["1"]


def test_without_handlers_there_is_nothing_to_consume(apps: Apps) -> None:
    done = apps.make().test_cli_runner().invoke(args=["eventbus", "consume"])
    assert done.exit_code == 2
    assert "@events.on" in done.output


@pytest.fixture
def program(tmp_path: Path, nats_server: NatsServer) -> Program:
    return Program(tmp_path, APP.format(url=nats_server.url))


def consume(program: Program) -> Process:
    return Process(program, "--app", "program", "eventbus", "consume", module="flask")


@pytest.mark.nats
@pytest.mark.watchdog(90)
def test_sigterm_has_the_handlers_finish(program: Program, nats_server: NatsServer) -> None:
    with EventBus(nats_server.url) as bus, consume(program) as process:
        bus.publish("orders.new", "1")
        wait_until(lambda: program.seen() == ["begins 1"], START)
        process.send()
        process.wait_said("SIGTERM: closing")
        program.release()
        assert process.end() == 0, process.text
    assert program.handled() == {"1": 1}
    assert "logged in with ***" in process.text
    assert "s3cret" not in process.text


@pytest.mark.nats
@pytest.mark.watchdog(90)
def test_a_second_sigterm_leaves_at_once(program: Program, nats_server: NatsServer) -> None:
    with EventBus(nats_server.url) as bus, consume(program) as process:
        bus.publish("orders.new", "1")
        wait_until(lambda: program.seen() == ["begins 1"], START)
        process.send()
        process.wait_said("SIGTERM: closing")
        started = time.monotonic()
        process.send(signal.SIGINT)
        assert process.end() == 1, process.text
        assert time.monotonic() - started < QUICK, "and not close_timeout"
    assert process.records()[-1]["unhandled"] == 1


@pytest.mark.nats
@pytest.mark.watchdog(90)
def test_it_waits_for_a_server_that_is_away(program: Program, nats_server: NatsServer) -> None:
    program.release()
    nats_server.kill()
    with consume(program) as process:
        process.wait_said("Connection refused")
        nats_server.start()
        with EventBus(nats_server.url) as bus:
            bus.publish("orders.new", "1")
        wait_until(lambda: program.handled() == {"1": 1}, START)
        process.send()
        assert process.end() == 0, process.text
