"""What a worker of a real gunicorn does with its bus: it boots, serves, waits, ends, and leaves signals alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

pytest.importorskip("gunicorn")

from gunicorn_support import HOOKS, PATCHED, Answer, Consumer, Gunicorn

from eventbus.testing import KafkaServer, NatsServer, wait_until

Broker = NatsServer | KafkaServer
SLACK = 1.5
"""Seconds more on a busy machine."""
AT_ONCE = 2.0
"""Seconds that a worker may take to end when nothing has to be waited for."""
STOPS_THE_HEALTH_CHECK_ONLY = """
import sys
from eventbus.ext.gunicorn import hooks

post_worker_init = hooks("app:bus").post_worker_init

def worker_exit(server, worker):
    sys.modules["app"].bus.stop_health_check()
"""


@pytest.fixture(
    scope="module",
    params=[pytest.param("web_nats", marks=pytest.mark.nats), pytest.param("web_kafka", marks=pytest.mark.kafka)],
)
def broker(request: pytest.FixtureRequest) -> Broker:
    server: Broker = request.getfixturevalue(request.param)
    return server


@contextmanager
def killed(broker: Broker) -> Iterator[None]:
    """It is down, and up again behind the block at the latest."""
    broker.kill()
    try:
        yield
    finally:
        if not broker.running:
            broker.start()


@contextmanager
def frozen(broker: Broker) -> Iterator[None]:
    broker.freeze()
    try:
        yield
    finally:
        broker.thaw()


@contextmanager
def up(broker: Broker) -> Iterator[None]:
    yield


def test_boots_without_a_broker_answers_503_in_time_and_recovers(broker: Broker) -> None:
    topic, patience = "web.boot", 1.0
    settings = {"url": broker.url, "publish_timeout": patience}
    with killed(broker), Gunicorn(settings, "--preload", workers=2, topic=topic) as gunicorn:
        gunicorn.wait_serving()
        workers = gunicorn.pids()
        refused = gunicorn.ask("/publish", "too early")
        assert refused.status == 503, refused
        assert patience - 0.1 <= refused.took <= patience + SLACK
        broker.start()
        good: list[Answer] = []

        def all_publish() -> bool:
            texts = [f"{len(good)}-{number}" for number in range(4)]
            good.extend(
                answer for answer in pool.map(lambda text: gunicorn.ask("/publish", text), texts) if answer.is_good
            )
            return {answer.pid for answer in good} == workers

        with ThreadPoolExecutor() as pool:
            wait_until(all_publish, 20.0, message=lambda: f"workers {workers}, the last answers: {good[-3:]}")
        assert gunicorn.pids() == workers, "a worker was started anew"
        with Consumer(broker.url, topic) as consumer:
            consumer.must_handle({answer.text for answer in good})
            assert "too early" not in consumer.handled, "what was certainly not sent was sent after all"
        gunicorn.stop()


def test_answers_who_waits_for_the_broker_before_it_ends(broker: Broker) -> None:
    """TERM amid an outage: 503 when the time of the publish is up, then the close, which tells what it left."""
    patience, closing = 3.0, 2.0
    settings = {"url": broker.url, "publish_timeout": patience, "close_timeout": closing}
    texts = [f"waits-{one}" for one in range(3)]
    with Gunicorn(settings, workers=1) as gunicorn, ThreadPoolExecutor() as pool:
        gunicorn.wait_serving("/publish")
        with killed(broker):
            waiting = [pool.submit(gunicorn.ask, "/announce", text) for text in texts]
            wait_until(lambda: all(f"asked for {text}" in gunicorn.log() for text in texts))
            took = gunicorn.stop()
            answers = [one.result() for one in waiting]
        assert took <= patience + closing + SLACK
        assert {answer.status for answer in answers} == {503}, answers
        assert "bus closed in" in gunicorn.log()


@pytest.mark.nats
def test_quit_ends_a_call_of_the_bus_wherever_it_is(web_nats: NatsServer) -> None:
    """gunicorn raises SystemExit out of a signal handler, in a sync worker amid `publish`.

    What that had accepted is no more than other messages: it gets half of `close_timeout`.
    """
    config = {"url": web_nats.url, "close_timeout": 2 * AT_ONCE}
    with Gunicorn(config, worker="sync", workers=1) as gunicorn, ThreadPoolExecutor() as pool:
        gunicorn.wait_serving("/publish")
        with killed(web_nats):
            waiting = pool.submit(gunicorn.ask, "/announce", "waits")
            wait_until(lambda: "asked for waits" in gunicorn.log())
            gunicorn.signal(signal.SIGQUIT)
            took = gunicorn.wait_ended(gunicorn.graceful_timeout)
            assert waiting.result().status == 500
        assert took <= 2 * AT_ONCE + SLACK
        assert "bus closed in" in gunicorn.log()


@pytest.mark.parametrize("state", [up, killed, frozen])
def test_a_worker_that_stops_its_health_check_and_never_closes_ends_at_once(broker: Broker, state: object) -> None:
    """What it had accepted is sent, or told on stderr."""
    assert callable(state)
    topic = f"web.unclosed-{state.__name__}"
    with Gunicorn({"url": broker.url}, workers=1, conf=STOPS_THE_HEALTH_CHECK_ONLY, topic=topic) as gunicorn:
        gunicorn.wait_serving("/publish")
        accepted = {f"{number}" for number in range(20)}
        with state(broker):
            assert all(gunicorn.ask("/nowait", text).is_good for text in accepted)
            took = gunicorn.stop()
        assert took <= AT_ONCE + SLACK
        log = gunicorn.log()
        assert "exited with code" not in log, "a worker that does not exit with 0 is told of"
        assert "was sent SIG" not in log
        assert state is up or f"{len(accepted)} accepted messages were not confirmed and may be lost" in log
        with Consumer(broker.url, topic) as consumer:
            consumer.must_handle({"first", *(accepted if state is up else ())})


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_signal_handlers_stay_gunicorns(worker: str) -> None:
    with Gunicorn({"url": "memory://web"}, worker=worker, workers=1) as gunicorn:
        gunicorn.wait_serving()
        modules = set(gunicorn.ask("/signals").said.split())
        gunicorn.stop()
    defaults = {"signal"}
    assert modules - defaults
    assert all(name.startswith("gunicorn.workers.") for name in modules - defaults), modules


def test_a_bus_that_cannot_be_opened_ends_gunicorn_with_the_reason() -> None:
    conf = 'from eventbus.ext.gunicorn import hooks\npost_worker_init, worker_exit = hooks("app:settings")\n'
    with Gunicorn({"url": "memory://web"}, workers=1, conf=conf) as gunicorn:
        gunicorn.wait_ended(20.0)
        assert "ConfigError: app:settings is no EventBus" in gunicorn.log()
        assert "Worker failed to boot" in gunicorn.log()


@pytest.mark.parametrize(
    ("url", "conf", "reason"),
    [
        (
            "kafka://127.0.0.1:1",
            PATCHED + HOOKS,
            "UnsupportedError: bus: gevent has patched the standard library, and kafka's client waits",
        ),
        (
            "nats://127.0.0.1:1",
            HOOKS,
            "UnsupportedError: bus: gevent has patched threading after eventbus was imported",
        ),
    ],
    ids=["kafka", "imported too early"],
)
def test_what_cannot_run_on_gevent_says_so_at_once(url: str, conf: str, reason: str) -> None:
    pytest.importorskip("gevent")
    with Gunicorn({"url": url}, worker="gevent", workers=1, conf=conf) as gunicorn:
        gunicorn.wait_ended(20.0)
        assert reason in gunicorn.log()
