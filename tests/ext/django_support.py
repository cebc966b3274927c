"""What the tests of Django share: the example shop as a project, its processes, and its databases."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from eventbus.testing import wait_until
from eventbus.testing.ports import free_port, release_port
from eventbus.testing.servers.process import ManagedProcess

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "scripts" / "examples" / "django_shop"
HOST = "127.0.0.1"
PATIENCE = 50.0
"""Seconds that a command may take: less than the watchdog of a test."""
GRACEFUL = 20.0
"""Seconds that gunicorn gives its workers to end."""


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that uses this checkout."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def told_by(*words: str, env: Mapping[str, str], cwd: Path = SHOP, code: int = 0) -> tuple[str, str]:
    """What a Python program that ends by itself writes to stdout and stderr; warnings are errors in it."""
    command = [sys.executable, "-W", "error", *words]
    done = subprocess.run(
        command, cwd=cwd, env=dict(env), capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == code, f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


class Shop:
    """The example as it is deployed: web processes under gunicorn, consumers, a database, a broker.

    Within a `with` block; what still runs at its end is killed. It is one directory that the processes share.
    """

    def __init__(self, broker: str, database: str, project: Path = SHOP) -> None:
        self._variables = {"EVENTBUS_URL": broker, "DATABASE_URL": database}
        self._project = project
        self._stack = ExitStack()
        self._port = free_port(HOST)

    def __enter__(self) -> Shop:
        self.manage("migrate", "--verbosity", "0")
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()
        release_port(self._port)

    def manage(self, *words: str, code: int = 0) -> tuple[str, str]:
        """What a command of manage.py writes to stdout and stderr."""
        return told_by("manage.py", *words, env=environment(**self._variables), cwd=self._project, code=code)

    def web(self, *options: str) -> ManagedProcess:
        """Start gunicorn with two workers, and wait until it answers."""
        settings = (
            "--chdir",
            str(self._project),
            "--bind",
            f"{HOST}:{self._port}",
            "--graceful-timeout",
            f"{GRACEFUL:.0f}",
        )
        web = self._start("web", "-m", "gunicorn", "--workers", "2", "--threads", "4", *settings, *options, "shop.wsgi")
        wait_until(lambda: self.asked("/healthz/live")[0] == 200, PATIENCE, message=web.log)
        return web

    def consumer(self, *options: str) -> ManagedProcess:
        """Start `manage.py eventbus_consume`, and wait until it consumes."""
        manage = str(self._project / "manage.py")
        consumer = self._start("consumer", manage, "eventbus_consume", *options)
        wait_until(lambda: "-> CONNECTED" in consumer.log(), PATIENCE, message=consumer.log)
        return consumer

    def asked(self, path: str, body: object = None) -> tuple[int, Any]:
        """The status and the JSON of an answer; (0, None) where there is none."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=PATIENCE)
        try:
            connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()

    def bills(self) -> list[int]:
        """The orders that were billed, by number."""
        code = "from shop.models import Bill; print(*Bill.objects.order_by('order').values_list('order', flat=True))"
        told, _ = self.manage("shell", "--verbosity", "0", "--command", code)
        return [int(number) for number in told.split()]

    def _start(self, name: str, *words: str) -> ManagedProcess:
        process = ManagedProcess(name)
        self._stack.callback(_end, process)
        home = str(process.directory)  # gunicorn leaves a socket there
        variables = {**self._variables, "PYTHONPATH": environment()["PYTHONPATH"], "HOME": home}
        process.run(["env", *(f"{name}={value}" for name, value in variables.items()), sys.executable, *words])
        return process


def ended(process: ManagedProcess, timeout: float = PATIENCE) -> int:
    """Have a process end in order; its exit code."""
    process.signal(signal.SIGTERM)
    process.wait_gone(timeout)
    assert process._child is not None
    return int(process._child.returncode)


def _end(process: ManagedProcess) -> None:
    print(f"--- {process.name} wrote:\n{process.log()}")  # pytest shows it where a test fails
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.close()
