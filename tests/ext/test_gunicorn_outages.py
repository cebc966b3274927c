"""Under load in a real gunicorn brokers and workers die, it reloads and ends, and no answer was a lie.

One cell for each row of the matrix in docs/gunicorn.rst. `EVENTBUS_SOAK=1` goes through more and longer outages, longer
than a request waits, too, at 200 requests a second and more.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

pytest.importorskip("gunicorn")

from gunicorn_support import HOOKS, PATCHED, Consumer, Gunicorn, Load

from eventbus.testing import KafkaServer, NatsServer, wait_until

SOAK = bool(os.environ.get("EVENTBUS_SOAK"))
pytestmark = [pytest.mark.slow, pytest.mark.watchdog(600.0 if SOAK else 60.0)]

LEAST_RATE = 200.0
RATE = 1.25 * LEAST_RATE if SOAK else 80.0
OUTAGES = (0.5, 8.0, 2.0, 0.0) if SOAK else (0.5,)
"""Seconds that the broker is away; 8 s are longer than a request waits."""
PUBLISH_TIMEOUT = 6.0
SLACK = 2.0
"""Seconds more on a busy machine."""
CALM = 10.0 if SOAK else 0.3
"""Seconds of load between two rounds."""
CLIENTS = 12

Broker = NatsServer | KafkaServer
PRELOADS = pytest.mark.parametrize("preload", ["no", "opened", *["yes"] * SOAK])
"""opened: the application is loaded in the master, and opens the bus there; so it is forked with its connection."""


class Rounds:
    """What happens to one gunicorn under load."""

    def __init__(self, broker: Broker, gunicorn: Gunicorn, load: Load) -> None:
        self._broker, self._gunicorn, self._load = broker, gunicorn, load
        self.rates: list[float] = []
        self.away = 0.0
        """Seconds that the broker was away at the longest."""

    def run(self) -> None:
        """An outage of each length, each with a worker that dies, a reload, and some calm behind it."""
        for seconds in OUTAGES:
            self._load.more()
            self._outage(seconds)
            self._worker_dies()
            self._reload()
            before = len(self._load.answers)
            _go_on(CALM)
            self.rates.append((len(self._load.answers) - before) / CALM)

    def _outage(self, seconds: float) -> None:
        """Whoever asks meanwhile is answered: 2xx late, or 503 when the time of the publish is up."""
        began = time.monotonic()
        self._broker.kill()
        asked = len(self._load.answers)
        _go_on(seconds)
        self._broker.start()
        self.away = max(self.away, time.monotonic() - began)
        self._load.more()
        answers = self._load.answers[asked:]
        assert {answer.status for answer in answers} <= {201, 503}, answers
        early = [one for one in answers if one.status == 503 and one.took < PUBLISH_TIMEOUT - 0.1]
        assert not early, "503 although there was time left"

    def _worker_dies(self) -> None:
        """kill -9: its requests are not answered; the master starts another one, and nobody else notices."""
        before, asked = self._gunicorn.pids(), len(self._load.answers)
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: len(self._gunicorn.pids() - before) == 1, 10.0)
        self._load.more()
        lost = [answer for answer in self._load.answers[asked:] if not answer.is_good]
        assert len(lost) <= CLIENTS, lost

    def _reload(self) -> None:
        """HUP: other workers, and the old ones end well."""
        before, asked = self._gunicorn.pids(), len(self._load.answers)
        self._gunicorn.signal(signal.SIGHUP)
        wait_until(lambda: not self._gunicorn.pids() & before and len(self._gunicorn.pids()) == len(before), 20.0)
        self._load.more()
        lost = [answer for answer in self._load.answers[asked:] if not answer.is_good]
        assert not lost, lost


def _go_on(seconds: float) -> None:
    """How long the load goes on; nothing is synchronised by it."""
    threading.Event().wait(seconds)


def check_cell(broker: Broker, worker: str, preload: str, conf: str = HOOKS) -> None:
    """Four workers under load, through all rounds, and what they answered against what was handled."""
    topic = f"web.{worker}-{preload}"
    settings = {"url": broker.url, "publish_timeout": PUBLISH_TIMEOUT}
    options = [] if preload == "no" else ["--preload"]
    gunicorn = Gunicorn(settings, *options, worker=worker, topic=topic, conf=conf, open_at_import=preload == "opened")
    with Consumer(broker.url, topic) as consumer, gunicorn:
        gunicorn.wait_serving()
        load = Load(gunicorn, RATE, CLIENTS)
        rounds = Rounds(broker, gunicorn, load)
        with load.at_work():
            rounds.run()
            took = gunicorn.stop()
        consumer.must_handle(load.good)
        counted = {status: sum(answer.status == status for answer in load.answers) for status in (201, 503, 0)}
        print(f"{worker}, preload {preload}: {rounds.rates} requests/s, answers {counted}, TERM took {took:.2f} s")
        assert not load.not_sent & consumer.handled, "handled, and its publisher was told that it is not stored"
        # The former is for what waits in front of a worker whose requests wait.
        longest = max(rounds.away, PUBLISH_TIMEOUT)
        assert max(answer.took for answer in load.answers) <= longest + SLACK
        assert gunicorn.log().count("bus closed in") >= gunicorn.workers
        assert "WARNING" not in gunicorn.log(), "settings that do not fit, or something left by a close"
        assert min(rounds.rates) >= LEAST_RATE or not SOAK


@pytest.mark.nats
@PRELOADS
@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_on_jetstream_no_answer_is_a_lie(web_nats: NatsServer, worker: str, preload: str) -> None:
    check_cell(web_nats, worker, preload)


@pytest.mark.nats
@pytest.mark.parametrize("preload", ["yes", *["no"] * SOAK])
def test_on_jetstream_under_gevent_no_answer_is_a_lie(web_nats: NatsServer, preload: str) -> None:
    pytest.importorskip("gevent")
    check_cell(web_nats, "gevent", preload, PATCHED + HOOKS)


@pytest.mark.kafka
@PRELOADS
@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_on_kafka_no_answer_is_a_lie(web_kafka: KafkaServer, worker: str, preload: str) -> None:
    check_cell(web_kafka, worker, preload)
