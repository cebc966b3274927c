"""The example `scripts/examples/flask_shop` on a real gunicorn, and on real brokers."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import textwrap
import threading
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flask")
pytest.importorskip("gunicorn")

from consume_support import START, Process, Program

from eventbus import EventBus
from eventbus.testing import KafkaServer, NatsServer, wait_until
from eventbus.testing.ports import free_port, release_port

EXAMPLE = Path(__file__).parents[2] / "scripts" / "examples" / "flask_shop"
PATIENCE = 20.0
"""Seconds for an answer over HTTP: far more than the example's publish timeout."""


class Shop:
    """The example, copied, under gunicorn; its log is shown where a test fails."""

    def __init__(self, folder: Path, broker: str, *options: str) -> None:
        self._program = Program(Path(shutil.copytree(EXAMPLE, folder / "shop")))
        self._variables = ("env", f"EVENTBUS_URL={broker}")
        self._port = free_port("127.0.0.1")
        served = ("--bind", f"127.0.0.1:{self._port}", "--workers", "2", "--threads", "4", *options)
        self.web = self._start("gunicorn", *served, "shop:create_app()")
        self.orders: set[str] = set()

    def __enter__(self) -> Shop:
        return self

    def __exit__(self, kind: object, *raised: object) -> None:
        if kind is not None:
            print(self.web.text)
        self.web.__exit__(None, None, None)
        release_port(self._port)

    def consumer(self) -> Process:
        """`flask eventbus consume` beside it."""
        return self._start("flask", "--app", "shop", "eventbus", "consume")

    def ask(self, path: str, given: Any = None) -> tuple[int, Any]:
        """The answer to a request; 0 where nobody listens."""
        data = None if given is None else json.dumps(given).encode()
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", data, head)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except (urllib.error.URLError, ConnectionError):
            return 0, None

    def order(self, number: int) -> int:
        """Order something; the status code."""
        code, answer = self.ask("/orders", {"customer": f"c-{number % 7}", "total": number})
        if code == 201:
            self.orders.add(answer["id"])
        return code

    def wait_ready(self) -> None:
        """Wait until a worker says so."""
        wait_until(lambda: self.ask("/healthz/ready")[0] == 200, START, message=lambda: self.web.text)

    def check(self) -> None:
        """What was answered with 201 is billed, each order once."""

        def billed() -> list[str]:
            return [one["id"] for one in self.ask("/bills")[1]]

        wait_until(lambda: self.orders <= set(billed()), START)
        assert len(billed()) == len(set(billed()))

    def stop(self) -> None:
        """SIGTERM; it ends well and in time."""
        self.web.send()
        assert self.web.end(15.0) == 0, self.web.text
        assert "Traceback" not in self.web.text

    def _start(self, module: str, *words: str) -> Process:
        return Process(self._program, *words, module=module, before=self._variables)


@pytest.mark.nats
@pytest.mark.slow
@pytest.mark.watchdog(120)
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_no_order_is_lost_when_the_broker_is_killed(
    tmp_path: Path, nats_server: NatsServer, options: tuple[str, ...]
) -> None:
    with Shop(tmp_path, nats_server.url, *options) as shop:
        shop.wait_ready()
        codes: list[int] = []
        stop = threading.Event()

        def load(first: int) -> None:
            for number in range(first, 100_000, 4):
                if stop.is_set():
                    return
                codes.append(shop.order(number))

        threads = [threading.Thread(target=load, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                so_far = len(shop.orders)
                wait_until(lambda so_far=so_far: len(shop.orders) > so_far + 50, START)
                nats_server.restart()
            nats_server.kill()
            wait_until(lambda: 503 in codes, START, message=lambda: str(codes))
            nats_server.start()
            so_far = len(shop.orders)
            wait_until(lambda: len(shop.orders) > so_far + 50, START)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert set(codes) == {201, 503}
        shop.check()
        shop.stop()


@pytest.mark.nats
@pytest.mark.slow
@pytest.mark.watchdog(120)
def test_the_broker_is_away_when_it_boots(tmp_path: Path, nats_server: NatsServer) -> None:
    nats_server.kill()
    with Shop(tmp_path, nats_server.url) as shop:
        wait_until(lambda: shop.ask("/healthz/live")[0] == 200, START, message=lambda: shop.web.text)
        assert shop.order(1) == 503
        assert shop.ask("/healthz/ready")[0] == 503
        nats_server.start()
        wait_until(lambda: shop.order(2) == 201, START)
        shop.check()
        shop.stop()


@pytest.mark.nats
@pytest.mark.slow
@pytest.mark.watchdog(120)
def test_workers_consume_before_their_first_request(tmp_path: Path, nats_server: NatsServer) -> None:
    """With the hook that docs/flask.rst shows."""
    page = (EXAMPLE.parents[2] / "docs" / "flask.rst").read_text(encoding="utf-8")
    (hook,) = re.findall(r"(?<=\n)(    def post_worker_init.*\n.*)\n", page)
    config = tmp_path / "gunicorn.conf.py"
    config.write_text(textwrap.dedent(hook))
    with (
        Shop(tmp_path, nats_server.url, "--preload", "--config", str(config)) as shop,
        EventBus(nats_server.url) as bus,
    ):
        shop.orders.add(bus.publish("orders.new", {"total": 7}).id)
        database = tmp_path / "shop" / "shop.sqlite"

        def billed() -> bool:
            with closing(sqlite3.connect(database)) as db:
                made = db.execute("SELECT 1 FROM sqlite_master").fetchone()
                return made is not None and db.execute("SELECT 1 FROM bills").fetchone() is not None

        wait_until(billed, START, message=lambda: shop.web.text)
        shop.check()
        shop.stop()


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.watchdog(180)
def test_the_same_on_kafka_with_a_consumer_beside_it(tmp_path: Path, kafka_server: KafkaServer) -> None:
    with Shop(tmp_path, f"kafka://{kafka_server.bootstrap}", "--preload") as shop, shop.consumer() as consumer:
        shop.wait_ready()
        consumer.wait_connected()
        for number in range(20):
            assert shop.order(number) == 201
        shop.check()
        consumer.send()
        assert consumer.end(15.0) == 0, consumer.text
        assert shop.order(20) == 201
        shop.check()
        shop.stop()


def test_the_readme_names_what_there_is() -> None:
    text = (EXAMPLE / "README.rst").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 30
    compose = (EXAMPLE / "docker-compose.yml").read_text(encoding="utf-8")
    for service in set(re.findall(r"docker compose up -d (\w+)", text)):
        assert f"\n  {service}:\n" in compose
    code = (EXAMPLE / "shop.py").read_text(encoding="utf-8")
    for path in set(re.findall(r"localhost:5000(/\w+)(?=[\s'])", text)):
        assert f'("{path}")' in code
