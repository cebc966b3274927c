"""For every test: nothing left behind, an end in time, and the outage matrix at the end of the run."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from eventbus.testing import LeakGuard

pytest.register_assert_rewrite(
    "eventbus.testing.conformance",
    "eventbus.testing._conformance",
    "eventbus.testing._conformance_batches",
    "eventbus.testing._conformance_dead_letters",
    "eventbus.testing._conformance_delivery",
    "eventbus.testing._conformance_faults",
    "eventbus.testing._conformance_reading",
    *("outages_base", "outages_recovery", "outages_subscriptions", "outages_calls", "outages_reading", "fakes"),
)

from eventbus.testing._conformance import PublishingConformance  # noqa: E402  # after its asserts are to be shown

hypothesis.settings.register_profile("no speed", deadline=None)  # machines are busy: the watchdog is bound enough
hypothesis.settings.load_profile("no speed")

WATCHDOG = 60.0
"""Seconds that a test may take; `@pytest.mark.watchdog(120)` gives it others."""
LAST_RESORT = 30.0
"""Seconds more, until a test that does not even hear a signal ends the whole run."""
NOT_APPLICABLE = "not applicable: "
CASES = "abcdefghijklmnop"

_stderr = pytest.StashKey[int]()


@pytest.fixture(autouse=True)
def _no_leaks(eventbus_leaks: LeakGuard) -> None:
    """Nothing may leave a thread, a descriptor or an unseen error behind."""


# -- the watchdog --------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_stderr] = os.dup(2)  # nothing is captured yet
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background of a shell, which hands that on
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_unconfigure(config: pytest.Config) -> None:
    faulthandler.cancel_dump_traceback_later()
    os.close(config.stash[_stderr])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    faulthandler.dump_traceback_later(_limit(item) + LAST_RESORT, exit=True, file=item.config.stash[_stderr])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item) -> None:
    """pytest gives up the last resort when a test fails; its end can still hang."""
    if isinstance(node, pytest.Item):
        faulthandler.dump_traceback_later(LAST_RESORT, exit=True, file=node.config.stash[_stderr])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fails a test that hangs, with what every thread was doing."""
    limit = _limit(item)

    def bark(number: int, frame: object) -> None:
        pytest.fail(f"the watchdog: still running after {limit:g} s\n{_stacks()}", pytrace=False)

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("watchdog")
    return float(marker.args[0]) if marker else WATCHDOG


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"-- {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame)[-8:])}"
        for ident, frame in sys._current_frames().items()
    )


# -- a missing broker ----------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """Where CI is set a test that needs a broker may not be skipped for the lack of one."""
    report = yield
    needs_broker = any(item.get_closest_marker(name) for name in ("nats", "kafka", "postgres"))
    if needs_broker and report.skipped and not hasattr(report, "wasxfail") and _on_ci():
        reason = _reason(report)
        if not reason.startswith(NOT_APPLICABLE):
            report.outcome = "failed"
            report.longrepr = f"CI is set, and the test was skipped: {reason}"
    return report


def _on_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


# -- the outage matrix ---------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if issubclass(getattr(item, "cls", None) or object, PublishingConformance):
            item.user_properties.append(("conformance", item.cls.__name__.removeprefix("Test")))
        cases = [case for marker in item.iter_markers("outage") for case in marker.args]
        if cases:
            backend = getattr(getattr(item, "cls", None), "backend", "-")
            item.user_properties.append(("outage", (backend, "".join(cases))))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The outage matrix, and what the conformance suite has shown of each backend."""
    _show_outages(terminalreporter)
    _show_conformance(terminalreporter)


def _show_conformance(terminalreporter: Any) -> None:
    """How many behaviours each backend has passed, and which are not applicable, and why."""
    passed, left_out = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, backend in getattr(report, "user_properties", ()):
                if name != "conformance":
                    continue
                if outcome == "passed":
                    passed[backend] += 1
                else:
                    left_out[backend][_reason(report) if outcome == "skipped" else outcome.upper()] += 1
    if passed or left_out:
        terminalreporter.section("conformance")
    for backend in sorted({*passed, *left_out}):
        terminalreporter.write_line(f"{backend}: {passed[backend]} passed")
        for reason, count in sorted(left_out[backend].items()):
            terminalreporter.write_line(f"  {count} {reason}")


def _show_outages(terminalreporter: Any) -> None:
    """One line for each outage case, one column for each backend."""
    found: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", ()):
                if name == "outage":
                    backend, cases = value
                    for case in cases:
                        detail = _reason(report) if outcome == "skipped" else report.nodeid
                        found[case, backend][outcome].add(detail)
    if not found:
        return
    backends = sorted({backend for _, backend in found})
    notes: list[str] = []
    terminalreporter.section("outage matrix")
    terminalreporter.write_line("case  " + "".join(f"{backend:<20}" for backend in backends))
    for case in CASES:
        cells = "".join(f"{_cell(found.get((case, backend)), notes):<20}" for backend in backends)
        terminalreporter.write_line(f"({case})   {cells}".rstrip())
    for number, note in enumerate(notes, 1):
        terminalreporter.write_line(f"  [{number}] {note}")


def _cell(outcomes: dict[str, set[str]] | None, notes: list[str]) -> str:
    if not outcomes:
        return "no test"
    bad = len(outcomes["failed"]) + len(outcomes["error"])
    if bad:
        return f"FAILED {bad}"
    text = f"passed {len(outcomes['passed'])}" if outcomes["passed"] else ""
    for reason in sorted(outcomes["skipped"]):
        if reason not in notes:
            notes.append(reason)
        word = "n/a" if reason.startswith(NOT_APPLICABLE) else "skipped"
        text += f"{', ' if text else ''}{word} [{notes.index(reason) + 1}]"
    return text
