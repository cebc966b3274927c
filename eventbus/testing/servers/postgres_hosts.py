"""How one PostgreSQL server is run: as a child process, or in a docker container."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from eventbus.testing.servers.docker_host import ContainerHost
from eventbus.testing.servers.guardian import children_of
from eventbus.testing.servers.process import ManagedProcess, ServerFailed, ServerUnavailable

#: The role and the database that tests use; anybody on loopback may log in as it.
USER = DATABASE = "postgres"

_INITDB_TIMEOUT = 60.0
_UNPRIVILEGED = ("postgres", "nobody")


class LocalHost(ManagedProcess):
    """Runs ``postgres`` as a child, and as somebody else where this process is root's: it refuses to be root.

    What is done to it is done to the processes that it makes, one for each client, too.
    """

    def __init__(self, name: str, folder: str, host: str, port: int) -> None:
        """Prepare the directory. ``folder``: where ``postgres`` and ``initdb`` are."""
        super().__init__(name)
        self._folder = Path(folder)
        self._data = self.directory / "data"
        self._as_user = _unprivileged(self.directory)
        self._settings = {
            "listen_addresses": host,
            "port": str(port),
            "unix_socket_directories": "",
            "fsync": "off",  # the machine does not go down with it: what is written is kept over any kill
        }

    def start(self) -> None:
        """Start the server, with its database made at the first time; does not wait for it."""
        if not self._data.exists():
            self._initialize()
        settings = [part for pair in self._settings.items() for part in ("-c", "=".join(pair))]
        self.run([*self._as_user, self._folder / "postgres", "-D", self._data, *settings])

    def kill(self) -> None:
        """SIGKILL for all of it, frozen or not; returns when the server is gone."""
        if self.running:
            self.signal(signal.SIGSTOP)  # it makes no more of them, and waits for none: their ids are theirs
            self._signal_children(signal.SIGKILL)
        super().kill()

    def stop(self, timeout: float = 10.0) -> None:
        """Have it cut its clients off and end; SIGKILL after ``timeout`` seconds. Idempotent."""
        if self.running:
            self.thaw()
            self.signal(signal.SIGINT)  # at a SIGTERM it would wait until all clients have left
            with contextlib.suppress(ServerFailed):
                self.wait_gone(timeout)
        self.kill()

    def freeze(self) -> None:
        """SIGSTOP for all of it; returns when the server stands still."""
        super().freeze()
        self._signal_children(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT for all of it."""
        self._signal_children(signal.SIGCONT)
        super().thaw()

    def _initialize(self) -> None:
        command = [*self._as_user, str(self._folder / "initdb"), "-D", str(self._data), "-U", USER]
        command += ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(
            command, cwd=self.directory, check=False, capture_output=True, text=True, timeout=_INITDB_TIMEOUT
        )
        if made.returncode:
            raise ServerFailed(f"{self.name}: initdb failed: {(made.stderr or made.stdout).strip()}")

    def _signal_children(self, number: signal.Signals) -> None:
        for pid in children_of(self.pid):
            with contextlib.suppress(ProcessLookupError):  # its client has just left
                os.kill(pid, number)


class DockerHost(ContainerHost):
    """Runs PostgreSQL in one container."""

    def __init__(self, name: str, image: str, host: str, port: int) -> None:
        """Describe the container; it is made at the first start."""
        super().__init__(name, image)
        environment = {"PGPORT": str(port), "POSTGRES_HOST_AUTH_METHOD": "trust"}
        self.put({}, [], host, (port,), environment=environment)


def _unprivileged(directory: Path) -> list[str]:
    """What to put before a command that may not run as root, and whose directory this becomes."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = next((known[name] for name in _UNPRIVILEGED if name in known), None)
    if setpriv is None or user is None:
        raise ServerUnavailable("PostgreSQL refuses to run as root, and setpriv or an unprivileged user is missing")
    os.chown(directory, user.pw_uid, user.pw_gid)
    return [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]
