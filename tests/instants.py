"""Something that happens before one instruction of a call: an exception, as out of a signal handler, or a fork."""

from __future__ import annotations

import opcode
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import CodeType, FrameType
from typing import Any

WATCHED = ("/eventbus/", "/threading.py", "/queue.py", "/concurrent/futures/", "/contextlib.py")
"""Parts of the names of the files whose instructions count: the library's, and the standard library's waits."""
OURS = WATCHED[:1]
_RETURNS = {opcode.opmap[name] for name in ("RETURN_VALUE", "RETURN_CONST") if name in opcode.opmap}
_TOOL = "instants"


class Interrupted(BaseException):
    """What an interrupt raises, as KeyboardInterrupt and time limits do: no Exception."""


class Instants:
    """Counts the instructions of a call on this thread, and does something before one of them.

    The last one of the outermost call, which hands over the result, is left out: an exception there is one after
    the call. watched: parts of the names of the files whose instructions count.
    """

    def __init__(
        self, at: int = 0, act: Callable[[], object] = lambda: None, watched: tuple[str, ...] = WATCHED
    ) -> None:
        self.count = 0
        self.fired_in = ""
        self._at = at
        self._act = act
        self._watched = watched
        self._outermost: FrameType | None = None
        self._thread = threading.get_ident()

    def run(self, call: Callable[[], object]) -> None:
        """Call under observation; what `act` or the call raises goes through."""
        # From 3.12 on a tracer is told of few instructions, and a monitor of all.
        observe = self._monitor if sys.version_info >= (3, 12) else self._trace
        try:
            observe(call)
        finally:
            self._outermost = None

    def _is_watched(self, code: CodeType) -> bool:
        return any(part in code.co_filename for part in self._watched) and code.co_name != "__del__"

    def _step(self, frame: FrameType, offset: int) -> None:
        if self._outermost is None:
            self._outermost = frame
        self.count += 1
        last = frame is self._outermost and frame.f_code.co_code[offset] in _RETURNS
        if self.count == self._at and not last:
            place = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
            self.fired_in = f"instruction {self.count}, {place} {frame.f_code.co_name}"
            self._act()

    # -- up to 3.11 ------------------------------------------------------------------------------

    def _trace(self, call: Callable[[], object]) -> None:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            call()
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        if not self._is_watched(frame.f_code):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._on_event

    def _on_event(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            self._step(frame, frame.f_lasti)
        return self._on_event

    # -- from 3.12 on ----------------------------------------------------------------------------

    def _monitor(self, call: Callable[[], object]) -> None:
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        number = next(number for number in (3, 4) if monitoring.get_tool(number) is None)
        monitoring.use_tool_id(number, _TOOL)
        instruction = monitoring.events.INSTRUCTION

        def on_instruction(code: CodeType, offset: int) -> Any:
            if not self._is_watched(code):
                return monitoring.DISABLE
            if threading.get_ident() == self._thread:
                self._step(sys._getframe(1), offset)
            return None

        try:
            monitoring.register_callback(number, instruction, on_instruction)
            monitoring.set_events(number, instruction)
            call()
        finally:
            monitoring.set_events(number, 0)
            monitoring.register_callback(number, instruction, None)
            monitoring.free_tool_id(number)
            monitoring.restart_events()


def interrupt_at(call: Callable[[], object], instant: int, watched: tuple[str, ...] = WATCHED) -> str:
    """Raise `Interrupted` before one instruction of a call; says where, or "" when it was over before."""

    def interrupt() -> None:
        raise Interrupted

    instants = Instants(instant, interrupt, watched)
    with suppress(Interrupted):
        instants.run(call)
    return instants.fired_in


def instructions_of(call: Callable[[], object]) -> int:
    """How many instructions a call takes on this thread."""
    instants = Instants()
    instants.run(call)
    return instants.count
