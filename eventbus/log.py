"""The library's loggers: a log handler of somebody else that raises ends nothing of ours."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter  # not to be subscripted before Python 3.11

_told = False
_here = threading.local()


def is_logging() -> bool:
    """Whether the calling thread is in a log handler that the library called: nothing may wait there for the library.

    It may be the thread that the wait would be for, and recovery waits for it in any case.
    """
    return getattr(_here, "depth", 0) > 0


def left_in_child() -> None:
    """In a child that a log handler has forked nobody waits for that handler: what is done there may wait."""
    _here.depth = 0


class Log(_Adapter):
    """A logger that never raises an Exception: its handlers and filters are other people's code. Any thread.

    The first one of the process is told on stderr while `logging.raiseExceptions` is true, as logging does. What is
    more than an Exception ends no thread of ours either; on a caller's it goes through: it may be an interrupt, or
    a time limit.
    """

    def log(
        self,
        level: int,
        msg: object,
        *args: object,
        exc_info: Any = None,
        stack_info: bool = False,
        stacklevel: int = 1,
        extra: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> None:
        """Log a message, as `logging.Logger.log` does, with the place of the caller; the others come here, too."""
        if not self.logger.isEnabledFor(level):
            return
        _here.depth = getattr(_here, "depth", 0) + 1
        try:
            self.logger.log(
                level,
                msg,
                *args,
                exc_info=exc_info,
                stack_info=stack_info,
                stacklevel=stacklevel + 1,
                extra=extra,
            )
        except BaseException as error:
            if not (isinstance(error, Exception) or getattr(threading.current_thread(), "is_ours", False)):
                raise
            _tell(self.logger.name, error)
        finally:
            _here.depth = max(0, _here.depth - 1)

    @property
    def is_heard(self) -> bool:
        """Whether there is any handler that shows what is logged here: we have none, and then Python shows nothing."""
        logger: logging.Logger | None = self.logger
        while logger is not None:
            if any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False


class Later:
    """What is to be logged and was found out under a lock: noted there, and told once it is let go.

    A log handler is other people's code: it may take its time, or call us.
    """

    def __init__(self, logger: Log) -> None:
        self._logger = logger
        self._noted: deque[tuple[int, str, tuple[object, ...]]] = deque()

    def info(self, message: str, *args: object) -> None:
        """Have it logged by whoever tells next."""
        self._noted.append((logging.INFO, message, args))

    def warning(self, message: str, *args: object) -> None:
        """Have it logged by whoever tells next."""
        self._noted.append((logging.WARNING, message, args))

    def tell(self) -> None:
        """Log what was noted. Any thread that holds no lock."""
        while self._noted:
            try:
                level, message, args = self._noted.popleft()
            except IndexError:  # another thread was faster
                return
            self._logger.log(level, message, *args, stacklevel=2)


def get(name: str) -> Log:
    """The logger of a module, by its `__name__`."""
    return Log(logging.getLogger(name), {})


def _tell(name: str, error: BaseException) -> None:
    global _told  # noqa: PLW0603
    if _told or not logging.raiseExceptions:
        return
    _told = True  # first: stderr may be a file of somebody's that logs
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    with suppress(Exception):  # there may be no stderr, or its disk is full, too; nobody else is left to be told
        sys.stderr.write(f"--- Logging error in {name}; later ones are not shown ---\n{text}")
