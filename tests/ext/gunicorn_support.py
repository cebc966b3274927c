"""A real gunicorn on loopback whose application publishes, HTTP load on it, and what became of each request."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from eventbus import EventBus, Message
from eventbus.testing import wait_until
from eventbus.testing.ports import free_port, release_port
from eventbus.testing.servers.process import ManagedProcess

HOST = "127.0.0.1"
APP = '''
"""Publishes what it is asked to."""

import json
import os
import signal
from pathlib import Path

import eventbus

settings = json.loads(Path("settings.json").read_text())
bus = eventbus.EventBus(settings["bus"])
if settings["open_at_import"]:
    bus.open()


def publish(text):
    try:
        receipt = bus.publish(settings["topic"], text)
    except eventbus.PublishError as error:
        return "503 Service Unavailable", f"{type(error).__name__}: {error}"
    assert receipt.confirmed
    return "201 Created", ""


def announce(text):
    os.write(2, f"asked for {text}\\n".encode())  # whole: other threads write, too
    return publish(text)


def publish_nowait(text):
    bus.publish_nowait(settings["topic"], text)
    return "202 Accepted", ""


def state(text):
    return "200 OK", bus.get_connection_state().phase.value


def signals(text):
    asked = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGUSR1, signal.SIGHUP)
    return "200 OK", " ".join(str(getattr(signal.getsignal(one), "__module__", one)) for one in asked)


ROUTES = {
    "/publish": publish,
    "/announce": announce,
    "/nowait": publish_nowait,
    "/state": state,
    "/signals": signals,
}


def application(environ, start_response):
    text = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
    status, said = ROUTES[environ["PATH_INFO"]](text)
    start_response(status, [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {said}".encode()]
'''
HOOKS = """
from eventbus.ext.gunicorn import hooks

post_worker_init, worker_exit = hooks("app:bus")
"""
PATCHED = "from gevent import monkey; monkey.patch_all()\n"
WORKER_CLASSES = {
    "sync": ("--worker-class", "sync"),
    "gthread": ("--worker-class", "gthread", "--threads", "4"),
    "gevent": ("--worker-class", "gevent"),
}
PATIENCE = 30.0
"""Seconds that an HTTP client waits: longer than any answer may take."""


class Answer(NamedTuple):
    """What became of one request. status: 0 when there was none. began: by `time.monotonic`. pid: of the worker."""

    text: str
    status: int
    pid: int
    said: str
    began: float
    took: float

    @property
    def is_good(self) -> bool:
        """2xx."""
        return 200 <= self.status < 300


class Gunicorn:
    """A gunicorn with an application of one bus, whose log pytest shows where a test fails."""

    def __init__(
        self,
        bus: Mapping[str, Any],
        *options: str,
        worker: str = "gthread",
        workers: int = 4,
        conf: str = HOOKS,
        topic: str = "web.requests",
        open_at_import: bool = False,
        graceful_timeout: int = 30,
    ) -> None:
        self.workers, self.graceful_timeout = workers, graceful_timeout
        self._process = ManagedProcess("gunicorn")
        self._port = free_port(HOST)
        folder = self._process.directory
        (folder / "app.py").write_text(APP)
        (folder / "gunicorn.conf.py").write_text(conf)
        settings = {"bus": dict(bus), "topic": topic, "open_at_import": open_at_import}
        (folder / "settings.json").write_text(json.dumps(settings))
        self._command = [
            *(sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py", "--bind", f"{HOST}:{self._port}"),
            *("--workers", str(workers), *WORKER_CLASSES[worker], "--graceful-timeout", str(graceful_timeout)),
            *("--control-socket", str(folder / "control"), *options, "app:application"),  # not that of the user's own
        ]

    def __enter__(self) -> Gunicorn:
        self._process.run(self._command)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        wait_until(lambda: not self.running, message="the master is gone")
        print(self.log())
        self._process.close()
        release_port(self._port)

    @property
    def pid(self) -> int:
        """Of the master."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the master is there."""
        return self._process.running

    def log(self) -> str:
        """What gunicorn, its workers and the application have written."""
        return self._process.log()

    def pids(self) -> set[int]:
        """Of the workers that are there now."""
        try:
            return {int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()}
        except FileNotFoundError:
            return set()

    def family(self) -> set[int]:
        """All processes that gunicorn has begun and that have not ended, its own included."""
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.pid and state != "Z":
                    found.add(int(stat.parent.name))
        return found

    def ask(self, path: str, text: str = "", timeout: float = PATIENCE) -> Answer:
        """One request on a connection of its own."""
        began = time.monotonic()
        connection = http.client.HTTPConnection(HOST, self._port, timeout=timeout)
        try:
            connection.request("POST", path, text)
            response = connection.getresponse()
            pid, _, said = response.read().decode().partition(" ")
        except (OSError, http.client.HTTPException) as error:
            return Answer(text, 0, 0, repr(error), began, time.monotonic() - began)
        finally:
            connection.close()
        number = int(pid) if pid.isdigit() else 0
        return Answer(text, response.status, number, said, began, time.monotonic() - began)

    def wait_serving(self, path: str = "/state", timeout: float = 20.0) -> None:
        """Wait until all workers are there, and one answers well."""
        wait_until(lambda: len(self.pids()) == self.workers, timeout, message=self.log)
        wait_until(lambda: self.ask(path, "first").is_good, timeout, message=self.log)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        self._process.signal(number)

    def wait_ended(self, timeout: float) -> float:
        """Wait until the master has ended, and no process of it is left; the seconds that the master took."""
        began = time.monotonic()
        wait_until(lambda: not self.running, timeout, message=self.log)
        took = time.monotonic() - began
        assert self.family() == set(), "processes are left"
        return took

    def stop(self) -> float:
        """TERM; the seconds until the master has ended, at most those of its graceful timeout. Nothing is left."""
        self.signal(signal.SIGTERM)
        return self.wait_ended(self.graceful_timeout)


class Load:
    """Threads that have a gunicorn publish, `rate` requests a second in all, each one by one."""

    def __init__(self, gunicorn: Gunicorn, rate: float, threads: int = 12) -> None:
        self._gunicorn = gunicorn
        self._pause = threads / rate
        self._stop = threading.Event()
        self.answers: list[Answer] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    @contextmanager
    def at_work(self) -> Iterator[Load]:
        """Ask, until the end of the block."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self.stop()

    def stop(self) -> None:
        """Ask no more, and wait for what was asked."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE + 5.0)
        assert not any(thread.is_alive() for thread in self._threads), "a request hangs"

    @property
    def good(self) -> set[str]:
        """What was answered with 2xx."""
        return {answer.text for answer in list(self.answers) if answer.is_good}

    @property
    def not_sent(self) -> set[str]:
        """What was answered with 503, and the word that it is certainly not stored."""
        answers = [answer for answer in list(self.answers) if answer.status == 503]
        return {answer.text for answer in answers if answer.said.startswith("PublishNotSentError")}

    def since(self, began: float) -> list[Answer]:
        """Answers to what was asked from then on."""
        return [answer for answer in list(self.answers) if answer.began >= began]

    def more(self, count: int = 20, timeout: float = 20.0) -> None:
        """Wait for so many more good answers to what is asked from now on, at least one from each worker of now."""
        now = time.monotonic()

        def enough() -> bool:
            good = [answer for answer in self.since(now) if answer.is_good]
            return len(good) >= count and self._gunicorn.pids() <= {answer.pid for answer in good}

        def tell() -> str:
            answers = self.since(now)
            return f"{len(answers)} answers, workers {self._gunicorn.pids()}, the last: {answers[-3:]}"

        wait_until(enough, timeout, message=tell)

    def _run(self, thread: int) -> None:
        number = 0
        due = time.monotonic()
        while not self._stop.is_set():
            self.answers.append(self._gunicorn.ask("/publish", f"{thread}-{number}"))
            number += 1
            due = max(due + self._pause, time.monotonic() - 1.0)  # behind by a second at most: no burst later
            self._stop.wait(max(0.0, due - time.monotonic()))


class Consumer:
    """A bus of the test's own that handles what the application publishes."""

    def __init__(self, url: str, topic: str) -> None:
        self._bus = EventBus(url)
        self._topic = topic
        self.handled: set[str] = set()

    def __enter__(self) -> Consumer:
        self._bus.open()
        self._bus.subscribe(self._topic, self._handle, group="web-test")
        return self

    def __exit__(self, *_: object) -> None:
        self._bus.close()

    def _handle(self, message: Message) -> None:
        self.handled.add(message.text())

    def must_handle(self, texts: set[str], timeout: float = 20.0) -> None:
        """Wait until all of these were handled."""
        wait_until(
            lambda: texts <= self.handled, timeout, message=lambda: f"not handled: {sorted(texts - self.handled)[:10]}"
        )
