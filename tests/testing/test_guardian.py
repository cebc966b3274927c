"""Whatever ends the process that started a server, even kill -9, ends the server too."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventbus.testing import wait_until
from eventbus.testing.servers import guardian
from eventbus.testing.servers.process import ManagedProcess

SCRIPT = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from eventbus.testing import NatsServer

    def main(how):
        server = NatsServer().start()
        print(server.pid, Path(f"/proc/{server.pid}/cwd").resolve(), flush=True)
        if how == "frozen":
            server.freeze()
        if how == "forked" and os.fork() == 0:
            sys.stdin.read()          # holds every inherited descriptor until the test is over
            os._exit(0)
        print("ready", flush=True)
        if how != "exits":
            sys.stdin.read()

    main(sys.argv[1])
    """
)


@contextlib.contextmanager
def parent(how: str) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """Run the script, which starts a server; yield it, the server's pid and its directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            pid, _, directory = process.stdout.readline().strip().partition(" ")
            assert process.stdout.readline() == "ready\n"
            yield process, int(pid), Path(directory)
        finally:
            process.kill()


def is_alive(pid: int) -> bool:
    """Whether a process is there and not only waiting to be reaped by the init process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.nats
@pytest.mark.parametrize("how", ["runs", "frozen", "forked"])
def test_kill_9_of_the_parent_ends_the_server_and_removes_its_files(how: str) -> None:
    with parent(how) as (process, pid, directory):
        assert is_alive(pid)
        assert directory.is_dir()
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), 5.0, message="the server is gone")
        wait_until(lambda: not directory.exists(), 5.0, message="its directory is gone")


@pytest.mark.nats
def test_a_parent_that_forgets_to_close_leaves_nothing() -> None:
    with parent("exits") as (process, pid, directory):
        assert process.wait(10.0) == 0
        wait_until(lambda: not is_alive(pid), 5.0, message="the server is gone")
        wait_until(lambda: not directory.exists(), 5.0, message="its directory is gone")


def test_a_managed_process_of_any_kind(tmp_path: Path) -> None:
    process = ManagedProcess("sleeper")
    try:
        assert (process.pid, process.running, process.log()) == (0, False, "")
        process.run(["/bin/sh", "-c", "echo started; exec sleep 60"])
        wait_until(lambda: process.log() == "started\n", 5.0)
        process.freeze()
        process.thaw()
        process.stop()
        assert not process.running
        process.run(["/bin/sh", "-c", "trap '' TERM; echo deaf; read -r line </dev/zero"])
        wait_until(lambda: process.log().endswith("deaf\n"), 5.0)
        process.stop(timeout=0.1)
        assert not process.running
    finally:
        process.close()
    assert not process.directory.exists()


def test_the_guardian_is_light() -> None:
    """It runs beside every server: no imports of ours, no site-packages, no heavy modules."""
    code = f"import sys, runpy; runpy.run_path({guardian.__file__!r}); print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True, text=True)
    loaded = set(answer.stdout.split())
    assert not {"eventbus", "site", "shutil", "subprocess", "asyncio", "socket"} & loaded


def test_without_process_descriptors_it_goes_by_the_parent_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    child = subprocess.Popen(["/bin/sleep", "60"])
    ward = guardian.Ward()
    ward.hear(f"pid {child.pid}")
    assert ward.pidfd == -1
    ward.end()
    assert child.wait(5.0) == -signal.SIGKILL
    ward.hear("none")
    ward.end()
