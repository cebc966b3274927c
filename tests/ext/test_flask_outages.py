"""A Flask application on a real nats-server that is killed, frozen, started late, or gone when the process ends."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flask")

from flask import Flask
from flask_support import Apps

from eventbus import Message
from eventbus.ext.flask import FlaskEventBus, app_bus
from eventbus.testing import NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.slow]

PATIENCE = 1.0
"""The `EVENTBUS_PUBLISH_TIMEOUT` of these applications."""
SLACK = 2.0
"""Seconds that a busy machine may add to it."""


class Shop:
    """An application with a handler, and what was confirmed and handled."""

    def __init__(self, apps: Apps, url: str) -> None:
        self.handled: set[int] = set()
        self.confirmed: set[int] = set()
        events = FlaskEventBus()
        events.subscribe("orders.*", self._bill, group="billing")
        check = {"interval": 0.5, "timeout": 0.5, "retry_interval": 0.2}
        self.app: Flask = apps.make(events, url=url, PUBLISH_TIMEOUT=PATIENCE, HEALTH_CHECK=check)
        self.client = self.app.test_client()

    def _bill(self, message: Message) -> None:
        self.handled.add(message.json()["number"])

    def order(self, number: int) -> Any:
        """What the request is answered; in time, or the test fails."""
        started = time.monotonic()
        answer = self.client.post(f"/orders/{number}")
        assert time.monotonic() - started < PATIENCE + SLACK
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 200:
            self.confirmed.add(number)
        else:
            assert int(answer.headers["Retry-After"]) >= 1
        return answer

    def order_until(self, code: int, start: int) -> int:
        """Order until the answer is this one; the next number."""
        numbers = iter(range(start, start + 10_000))
        wait_until(lambda: self.order(next(numbers)).status_code == code, 20.0)
        return next(numbers)

    def ready(self) -> tuple[int, str]:
        """The readiness, as code and status; to be alive never depends on the broker."""
        assert self.client.get("/healthz/live").status_code == 200
        answer = self.client.get("/healthz/ready")
        return answer.status_code, answer.json["status"]

    def wait_ready(self) -> None:
        wait_until(lambda: self.ready() == (200, "ready"), 20.0, message=lambda: str(self.ready()))

    def check(self) -> None:
        """All that was confirmed is handled."""
        wait_until(lambda: self.confirmed <= self.handled, 20.0, message=lambda: f"{self.confirmed - self.handled}")


@pytest.fixture
def apps(nats_server: NatsServer) -> Iterator[Apps]:
    with Apps() as made:
        yield made


def test_a_server_that_is_killed_and_restarted(apps: Apps, nats_server: NatsServer) -> None:
    shop = Shop(apps, nats_server.url)
    shop.wait_ready()
    after = shop.order_until(200, 0)
    nats_server.kill()
    wait_until(lambda: shop.ready() == (503, "reconnecting"), message=lambda: str(shop.ready()))
    assert shop.order(after).status_code == 503
    nats_server.restart()
    shop.wait_ready()
    assert shop.order(after + 1).status_code == 200
    assert len(shop.confirmed) == 2
    shop.check()


def test_requests_go_on_all_the_time(apps: Apps, nats_server: NatsServer) -> None:
    """Four threads, as of one worker of gunicorn, through three kills."""
    shop, stop, failures = Shop(apps, nats_server.url), threading.Event(), list[BaseException]()
    shop.wait_ready()

    def load(first: int) -> None:
        number = first
        try:
            while not stop.is_set():
                shop.order(number)
                number += 4
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=load, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            so_far = len(shop.confirmed)
            wait_until(lambda so_far=so_far: failures or len(shop.confirmed) > so_far + 20, 20.0)
            nats_server.restart()
        shop.wait_ready()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    shop.check()


def test_a_server_that_is_away_when_the_application_boots(apps: Apps, nats_server: NatsServer) -> None:
    nats_server.kill()
    shop = Shop(apps, nats_server.url)
    assert shop.ready() == (503, "reconnecting")
    assert shop.order(0).status_code == 503
    nats_server.start()
    shop.wait_ready()
    assert shop.order(1).status_code == 200
    shop.check()


def test_a_server_that_is_frozen(apps: Apps, nats_server: NatsServer) -> None:
    shop = Shop(apps, nats_server.url)
    shop.wait_ready()
    nats_server.freeze()
    assert shop.order(0).status_code == 503
    wait_until(lambda: shop.ready() == (503, "reconnecting"), message=lambda: str(shop.ready()))
    nats_server.thaw()
    shop.wait_ready()
    shop.order_until(200, 1)
    shop.check()


def test_the_first_request_of_a_process_is_not_refused_for_being_the_first(apps: Apps, nats_server: NatsServer) -> None:
    """With `on_outage="raise"`: nothing is known of an outage before the first attempt to connect."""
    app = apps.make(url=nats_server.url, ON_OUTAGE="raise")
    assert app.test_client().post("/orders/1").status_code == 200


def test_no_request_waits_for_what_is_subscribed_late(apps: Apps, nats_server: NatsServer) -> None:
    """The application published before it served requests, so the broker is asked now, and it is frozen."""
    events = FlaskEventBus()
    for number in range(3):
        events.subscribe(f"orders.{number}", print, group="billing")
    app = apps.make(events, url=nats_server.url)
    with app.app_context():
        events.bus.publish("orders.new", b"1")
    nats_server.freeze()
    begun = time.monotonic()
    app.test_client().get("/")
    took = time.monotonic() - begun
    nats_server.thaw()
    assert took < SLACK
    wait_until(lambda: app.test_client().get("/") and len(app_bus(app).bus.get_subscriptions()) == 3, 30.0)


# -- the end of the process ----------------------------------------------------------------------

PROGRAM = """
import sys
from flask import Flask
from eventbus.ext.flask import FlaskEventBus
events = FlaskEventBus()
app = Flask("shop")
app.config["EVENTBUS_URL"] = sys.argv[1]
app.config["EVENTBUS_CLOSE_TIMEOUT"] = float(sys.argv[3])
events.init_app(app)

@app.get("/")
def order():
    events.bus.publish("orders.new", b"1")
    for _ in range(100):
        events.bus.publish_nowait("orders.new", b"2")
    return ""

assert app.test_client().get("/").status_code == 200
"""


PUBLISHES_IN_AN_OUTAGE = """
    import os, signal, time
    from eventbus.ext.flask import app_bus
    from eventbus.testing import wait_until
    bus = app_bus(app).bus
    bus.flush()
    os.kill(int(sys.argv[2]), signal.{signal})
    {stop}
    bus.publish_nowait("orders.new", b"3")
    print(time.monotonic(), flush=True)
"""
NOTICED = "wait_until(lambda: not bus.get_health_status().is_healthy)"


def start(tmp_path: Path, server: NatsServer, then: str = "", close_timeout: float = 10.0) -> subprocess.Popen[str]:
    """Start a program that publishes in a request, and ends without closing anything."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + textwrap.dedent(then))
    command = [sys.executable, "-W", "error", str(program), server.url, str(server.pid), str(close_timeout)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_process_that_ends_sends_what_it_has_accepted(tmp_path: Path, nats_server: NatsServer) -> None:
    with start(tmp_path, nats_server) as program:
        _, errors = program.communicate(timeout=30)
    assert (program.returncode, errors) == (0, "")
    assert nats_server.monitor("jsz?streams=true")["messages"] == 101


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize(("stop", "patience"), [("bus.stop_health_check()", 1.0), (NOTICED, 3.0)])
def test_a_process_ends_in_time_while_the_server_is_away(
    tmp_path: Path, nats_server: NatsServer, signal: str, stop: str, patience: float
) -> None:
    """Within `close_timeout`, or a second where nobody watches any more."""
    then = PUBLISHES_IN_AN_OUTAGE.format(signal=signal, stop=stop)
    with start(tmp_path, nats_server, then, close_timeout=3.0) as program:
        told, errors = program.communicate(timeout=30)
    took = time.monotonic() - float(told)
    if signal == "SIGSTOP":
        nats_server.thaw()
    assert program.returncode == 0, errors
    assert took < patience + SLACK
    assert "1 accepted messages were not confirmed and may be lost" in errors, "nothing is set up to hear the log"


def test_what_was_accepted_in_an_outage_is_sent_by_a_process_that_ends(tmp_path: Path, nats_server: NatsServer) -> None:
    then = PUBLISHES_IN_AN_OUTAGE.format(signal="SIGKILL", stop=NOTICED)
    with start(tmp_path, nats_server, then, close_timeout=20.0) as program:
        assert program.stdout is not None
        assert program.stdout.readline()
        nats_server.restart()
        _, errors = program.communicate(timeout=30)
    assert program.returncode == 0, errors
    assert nats_server.monitor("jsz?streams=true")["messages"] == 102
