"""Ends a test server, and removes its files, once the process that started it is gone.

Run as ``python -I -S guardian.py PARENT DIRECTORY``; it imports nothing of ours. Lines on its
standard input name what to end: ``pid N``, ``container ID``, or ``none``. It acts when that
input ends (the parent let go of it) or when the parent is gone, even by ``kill -9``, even if a
fork of the parent still holds the other end of the pipe.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

_NO_PIDFD_POLL = 0.25


class Ward:
    """What is to be ended: a process (by a descriptor, safe from reused ids) or a container."""

    def __init__(self) -> None:
        """Start with nothing to end."""
        self.pid = 0
        self.pidfd = -1
        self.container = ""

    def hear(self, line: str) -> None:
        """Take in one line from the parent."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pid, self.pidfd, self.container = 0, -1, ""
        kind, _, value = line.partition(" ")
        if kind == "pid":
            self.pid = int(value)
            self.pidfd = pidfd_of(self.pid)
        elif kind == "container":
            self.container = value

    def end(self) -> None:
        """Kill it now, with the processes that it has made; something that is gone already is fine."""
        with contextlib.suppress(ProcessLookupError):
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, signal.SIGSTOP)  # it makes no more of them
                for child in children_of(self.pid):
                    os.kill(child, signal.SIGKILL)
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
                select.select([self.pidfd], [], [], 5.0)
            elif self.pid:
                os.kill(self.pid, signal.SIGKILL)
        if self.container:
            remove_container(self.container)


def pidfd_of(pid: int) -> int:
    """Return a descriptor of the process, or -1 where there is none to be had."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return -1


def children_of(pid: int) -> list[int]:
    """Return the ids of the processes that a process has made and not yet waited for."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
            return [int(child) for child in children.read().split()]
    except OSError:
        return []


def remove_container(name: str) -> None:
    """Remove a docker container by force, if it is still there."""
    import docker
    import docker.errors

    with contextlib.suppress(docker.errors.APIError):
        docker.from_env(timeout=20).containers.get(name).remove(force=True, v=True)


def watch(parent: int, ward: Ward) -> None:
    """Return when standard input has ended or the parent is gone."""
    parent_fd = pidfd_of(parent)
    watched = [0] + ([parent_fd] if parent_fd >= 0 else [])
    timeout = None if parent_fd >= 0 else _NO_PIDFD_POLL
    text = b""
    while os.getppid() == parent:
        ready = select.select(watched, [], [], timeout)[0]
        if 0 in ready:
            data = os.read(0, 4096)
            if not data:
                return
            *lines, text = (text + data).split(b"\n")
            for line in lines:
                ward.hear(line.decode())
        elif ready:
            return


def drain(ward: Ward) -> None:
    """Hear what the parent wrote before it went."""
    os.set_blocking(0, False)
    with contextlib.suppress(BlockingIOError):
        for line in os.read(0, 4096).split(b"\n")[:-1]:
            ward.hear(line.decode())


def main(parent: int, directory: str) -> None:
    """Watch, then end the server and remove its directory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ward = Ward()
    watch(parent, ward)
    drain(ward)
    ward.end()
    if os.path.isdir(directory):
        import shutil

        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
