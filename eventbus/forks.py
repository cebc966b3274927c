"""What is done in a child that `os.fork()` has made, before anything else runs there."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar
from weakref import WeakSet

from . import log

logger = log.get(__name__)

_Socket = TypeVar("_Socket", bound=socket.socket)

Step = Callable[[], object]
"""Takes no lock that another thread of the parent may have held: nobody releases it in the child.

It may be taken several times.
"""
Steps = TypeVar("Steps", bound=Callable[[], Iterable[Step]])
TRIES = 10
"""How often a step is taken that is interrupted each time: one that ends itself must not hold up the others."""

_process = os.getpid()
"""The one that this was last done for."""
_sockets: WeakSet[socket.socket] = WeakSet()
_letting_go: list[Step] = [log.left_in_child]
_beginning: list[Callable[[], Iterable[Step]]] = []


def let_go_in_child(step: Step) -> Step:
    """In every forked child, let go of what is the parent's: sockets, handles, what threads were at."""
    _letting_go.append(step)
    return step


def begin_in_child(steps: Steps) -> Steps:
    """In every forked child, begin anew, once all was let go of: what is opened now is not taken for the parent's.

    steps(): what is to be done then; each of them is taken again by itself where it is interrupted.
    """
    _beginning.append(steps)
    return steps


def close_in_child(sock: _Socket) -> _Socket:
    """In every forked child give the copy of a socket back at once, or its peer would never see the parent's end.

    From its making on: a fork may come while it is being connected.
    """
    _sockets.add(sock)
    return sock


def catch_up() -> None:
    """Where a program in C has forked past Python, as uWSGI does by default, do now what no hook has done there."""
    if os.getpid() != _process:
        _after_fork_in_child()


def take_all(steps: Iterable[Step]) -> None:
    """Take each step, whether or not those before it have failed: what is left out would go on being the parent's.

    One that signal handlers interrupt is taken again; the last of what they have raised is raised behind all of them.
    """
    interrupt: BaseException | None = None
    for step in list(steps):
        for _ in range(TRIES):
            try:
                step()
            except Exception:
                logger.exception("in a forked child a step failed")
            except BaseException as error:  # the step may have been in the middle
                interrupt = error
                continue
            break
    if interrupt is not None:
        raise interrupt


def _after_fork_in_child() -> None:
    global _process  # noqa: PLW0603
    _process = os.getpid()
    take_all((*_letting_go, *(step for steps in _beginning for step in steps())))


@let_go_in_child
def _close_sockets() -> None:
    for sock in list(_sockets):
        with suppress(OSError):
            os.close(sock.detach())  # the bare descriptor: no goodbye, no TLS alert, for the link is the parent's


os.register_at_fork(after_in_child=_after_fork_in_child)
