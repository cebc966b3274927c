"""The loggers of the library: what a handler of somebody else raises ends there, and costs nothing else."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator

import pytest

from eventbus import log
from eventbus.log import Later, Log
from eventbus.threads import spawn

FULL = OSError(28, "No space left on device")


class Handler(logging.Handler):
    """Keeps records, and raises."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if self.error is not None:
            raise self.error


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handler]:
    monkeypatch.setattr(log, "_told", False)
    raw, found = logging.getLogger("eventbus.of_a_test"), Handler()
    raw.addHandler(found)
    raw.setLevel(logging.DEBUG)
    raw.propagate = False
    yield found
    raw.removeHandler(found)


@pytest.fixture
def logger(handler: Handler) -> Log:
    return log.get("eventbus.of_a_test")


VERBS: dict[str, Callable[[Log], object]] = {
    "DEBUG": lambda logger: logger.debug("a %s", "b"),
    "INFO": lambda logger: logger.info("a %s", "b"),
    "WARNING": lambda logger: logger.warning("a %s", "b"),
    "ERROR": lambda logger: logger.error("a %s", "b"),
    "CRITICAL": lambda logger: logger.critical("a %s", "b"),
    "Level 5": lambda logger: logger.log(5, "a %s", "b"),
}


@pytest.mark.parametrize("level", VERBS)
def test_a_record_says_where_the_caller_stands(level: str, logger: Log, handler: Handler) -> None:
    logger.setLevel(1)
    VERBS[level](logger)
    record = handler.records[0]
    assert (record.levelname, record.getMessage(), record.name) == (level, "a b", "eventbus.of_a_test")
    assert (record.pathname, record.funcName) == (__file__, "<lambda>")
    assert record.lineno == inspect.getsourcelines(VERBS[level])[1]


def test_an_exception_is_logged_with_its_traceback(logger: Log, handler: Handler) -> None:
    try:
        raise ValueError("x")
    except ValueError as error:
        logger.exception("it failed")
        logger.warning("it failed", exc_info=error)
    assert [record.exc_info[0] for record in handler.records if record.exc_info] == [ValueError, ValueError]
    assert {record.funcName for record in handler.records} == {"test_an_exception_is_logged_with_its_traceback"}


def test_what_is_noted_under_a_lock_is_told_behind_it_once_and_in_order(logger: Log, handler: Handler) -> None:
    logger.setLevel(1)
    later = Later(logger)
    later.warning("%s [%d]", "orders", 0)
    later.info("and")
    assert handler.records == []
    later.tell()
    later.tell()
    assert [(one.levelname, one.getMessage()) for one in handler.records] == [
        ("WARNING", "orders [0]"),
        ("INFO", "and"),
    ]
    assert {one.pathname for one in handler.records} == {__file__}


@pytest.mark.parametrize("level", VERBS)
def test_a_handler_that_raises_costs_nothing(level: str, logger: Log, handler: Handler) -> None:
    logger.setLevel(1)
    handler.error = FULL
    VERBS[level](logger)
    handler.error = None
    VERBS[level](logger)
    assert len(handler.records) == 2


def test_a_filter_that_raises_costs_nothing(logger: Log, handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise FULL

    monkeypatch.setattr(logger.logger, "filters", [refuse])
    logger.error("x")
    assert handler.records == []


def test_it_is_told_once(logger: Log, handler: Handler, capsys: pytest.CaptureFixture[str]) -> None:
    handler.error = FULL
    for _ in range(3):
        logger.error("x")
    told = capsys.readouterr().err
    assert told.count("Logging error in eventbus.of_a_test") == told.count("No space left on device") == 1
    assert "Traceback" in told


def test_it_is_not_told_where_logging_says_nothing_either(
    logger: Log, handler: Handler, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler.error = FULL
    logger.error("x")
    assert capsys.readouterr().err == ""


class Full:
    """A stderr that is as full as the log."""

    def write(self, text: str) -> None:
        raise FULL


@pytest.mark.parametrize("stderr", [None, Full()])
def test_nobody_needs_to_be_there_to_be_told(
    stderr: object, logger: Log, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    handler.error = FULL
    logger.error("x")
    assert len(handler.records) == 1


def test_nothing_is_done_while_the_level_is_off(logger: Log, handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    logger.setLevel(logging.ERROR)
    monkeypatch.setattr(logging.Logger, "log", lambda *args, **kwargs: pytest.fail("it was handed on"))
    logger.warning("a %s", "b")
    assert handler.records == []


@pytest.mark.parametrize("leaves", [SystemExit, KeyboardInterrupt])
def test_what_is_more_than_an_exception_is_the_caller_s_and_ends_no_thread_of_ours(
    leaves: type[BaseException], logger: Log, handler: Handler
) -> None:
    handler.error, went_on = leaves(), []
    with pytest.raises(leaves):
        logger.error("x")

    def work() -> None:
        logger.error("x")
        went_on.append(True)

    spawn("eventbus.bus.worker", work).join(5.0)
    assert went_on == [True]


def test_inside_of_a_handler_it_says_so(logger: Log, handler: Handler) -> None:
    seen: list[bool] = []
    handler.emit = lambda record: seen.append(log.is_logging())  # type: ignore[method-assign]
    assert not log.is_logging()
    logger.warning("x")
    assert seen == [True]
    assert not log.is_logging()
