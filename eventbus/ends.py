"""What is done when a process ends: with the interpreter, or, in a child of multiprocessing, without it."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable

from .forks import catch_up, let_go_in_child

Step = Callable[[], object]
"""It may be taken twice, and raises nothing."""

_steps: list[Step] = []
_is_told_of_children: list[bool] = []
_is_heard: list[bool] = []
"""Whether multiprocessing tells of the end of this process."""


def at_end(step: Step) -> Step:
    """Have a step taken when the process ends; a later one comes before an earlier one."""
    _steps.append(step)
    return step


def hear_end() -> None:
    """Something was opened: where this is a child of multiprocessing, or has one later, see that its end is heard.

    Such a child ends by `os._exit`, without `atexit`. It has finalizers instead, and begins by dropping those that
    were there, as those of a bus that a fork has opened.
    """
    if "multiprocessing.util" not in sys.modules:
        return
    from multiprocessing import parent_process, util

    if not _is_told_of_children:
        _is_told_of_children.append(True)
        util.register_after_fork(_end, _hear)
    if parent_process() is not None and not _is_heard:
        _is_heard.append(True)
        _hear(_end)


def _hear(end: Step) -> None:
    from multiprocessing import util

    util.Finalize(None, end, exitpriority=0)


def _end() -> None:
    catch_up()
    for step in reversed(_steps):
        step()


atexit.register(_end)
let_go_in_child(_is_heard.clear)
