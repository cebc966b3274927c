"""The hooks alone, called as gunicorn calls them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import eventbus
from eventbus import ConfigError, EventBus, NotInitializedError, Phase
from eventbus.ext.gunicorn import hooks
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages

SERVER = object()


def worker_of(worker_class: str = "gthread", pid: int | None = None, **settings: float) -> Any:
    cfg = SimpleNamespace(**{"worker_class_str": worker_class, "timeout": 30, "graceful_timeout": 30, **settings})
    return SimpleNamespace(pid=os.getpid() if pid is None else pid, cfg=cfg, log=logging.getLogger("gunicorn.test"))


@pytest.fixture
def bus() -> Iterator[EventBus]:
    made = EventBus("memory://hooks")
    yield made
    made.close()
    MemoryOutages("hooks").forget()


def texts(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "gunicorn.test" and one.levelno == level]


def test_a_worker_opens_its_bus_closes_it_and_tells(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    own, worker = hooks(lambda: bus), worker_of()
    own.post_worker_init(worker)
    assert bus.wait_connected(5.0)
    own.worker_exit(SERVER, worker)
    assert bus.get_connection_state().phase is Phase.CLOSED
    assert texts(caplog, logging.WARNING) == []
    (text,) = texts(caplog, logging.INFO)
    assert text.startswith("eventbus: bus closed in 0.")
    assert text.endswith(" s, nothing left")
    own.worker_exit(SERVER, worker)
    assert len(texts(caplog, logging.INFO)) == 1, "closed and told twice"


def test_what_a_close_had_to_leave_is_a_warning(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    own, worker = hooks(lambda: bus), worker_of()
    own.post_worker_init(worker)
    assert bus.wait_connected(5.0)
    MemoryOutages("hooks").refuse()
    bus.publish_nowait("orders", b"x")
    own.worker_exit(SERVER, worker)
    (text,) = texts(caplog, logging.WARNING)
    assert text.endswith("1 publishes without an answer")


def test_a_broker_that_comes_back_gets_what_was_accepted(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    own, worker, broker = hooks(lambda: bus), worker_of(), MemoryOutages("hooks")
    own.post_worker_init(worker)
    assert bus.wait_connected(5.0)
    broker.refuse()
    bus.publish_nowait("orders", b"x")
    back = threading.Timer(0.3, broker.restore)
    back.start()
    own.worker_exit(SERVER, worker)
    back.join()
    (text,) = texts(caplog, logging.INFO)
    assert text.endswith(" s, nothing left")


def test_several_buses_close_side_by_side_in_the_time_of_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    buses = [EventBus(f"memory://hooks?name=hooks-{number}&close_timeout=1.5") for number in range(4)]
    monkeypatch.setattr(eventbus, "shop", SimpleNamespace(bus=buses[0]), raising=False)
    own, worker = hooks("eventbus:shop.bus", *(lambda bus=bus: bus for bus in buses[1:])), worker_of()
    own.post_worker_init(worker)
    assert all(bus.wait_connected(5.0) for bus in buses)
    buses[3].close()
    MemoryOutages("hooks").refuse()
    for bus in buses[:3]:
        bus.publish_nowait("orders", b"x")
    began = time.monotonic()
    own.worker_exit(SERVER, worker)
    assert time.monotonic() - began < 2.5 * 1.5
    MemoryOutages("hooks").forget()
    assert [bus.get_connection_state().phase for bus in buses] == [Phase.CLOSED] * 4
    found = texts(caplog, logging.WARNING)
    assert [text.partition(" closed")[0] for text in found] == [f"eventbus: hooks-{number}" for number in range(3)]
    assert all(text.endswith("1 publishes without an answer") for text in found)
    (text,) = texts(caplog, logging.INFO)
    assert text.startswith("eventbus: hooks-3 closed in ")


def test_in_the_master_nothing_is_closed(bus: EventBus) -> None:
    """gunicorn calls `worker_exit` there for a worker that was gone when it was to be signalled."""
    own, worker = hooks(lambda: bus), worker_of()
    own.post_worker_init(worker)
    own.worker_exit(SERVER, worker_of(pid=os.getppid()))
    assert bus.wait_connected(5.0)


def test_a_worker_that_did_not_boot_has_nothing_to_close() -> None:
    own = hooks("no.such.module:bus")
    with pytest.raises(ModuleNotFoundError):
        own.post_worker_init(worker_of())
    own.worker_exit(SERVER, worker_of())


@pytest.mark.parametrize("reference", ["", "shop", "shop:", ":bus"])
def test_a_reference_that_is_none_is_refused_where_it_stands(reference: str) -> None:
    with pytest.raises(ConfigError, match="module:attribute"):
        hooks(reference)


def test_a_reference_may_name_an_attribute_of_an_attribute(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventbus, "shop", SimpleNamespace(bus=bus), raising=False)
    own = hooks("eventbus:shop.bus")
    own.post_worker_init(worker_of())
    assert bus.wait_connected(5.0)


def test_without_a_reference_it_is_the_global_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_URL", "memory://hooks")
    own, worker = hooks(), worker_of()
    own.post_worker_init(worker)
    assert eventbus.get_global().wait_connected(5.0)
    own.worker_exit(SERVER, worker)
    with pytest.raises(NotInitializedError):
        eventbus.get_global()


def test_the_global_bus_may_be_the_applications() -> None:
    own, worker = hooks(), worker_of()
    made = eventbus.initialize_from_config("memory://hooks")
    own.post_worker_init(worker)
    own.worker_exit(SERVER, worker)
    assert made.get_connection_state().phase is Phase.CLOSED


@pytest.mark.parametrize(
    ("worker_class", "settings", "warnings"),
    [
        ("gthread", {"graceful_timeout": 25}, []),
        ("gthread", {"graceful_timeout": 24}, ["graceful_timeout is 24 s"]),
        ("sync", {"timeout": 15}, ["timeout is 15 s"]),
        ("sync", {"timeout": 16}, []),
        ("sync", {"timeout": 0}, []),
        ("gthread", {"timeout": 5}, []),
        ("sync", {"timeout": 5, "graceful_timeout": 5}, ["graceful_timeout is 5 s", "timeout is 5 s"]),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_told_at_the_start(
    bus: EventBus,
    caplog: pytest.LogCaptureFixture,
    worker_class: str,
    settings: dict[str, float],
    warnings: list[str],
) -> None:
    hooks(lambda: bus).post_worker_init(worker_of(worker_class, **settings))
    found = texts(caplog, logging.WARNING)
    assert [
        text.removeprefix("eventbus: ")[: len(start)] for text, start in zip(found, warnings, strict=True)
    ] == warnings


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, 10.0),
        ({"graceful_timeout": 20}, 10.0),
        ({"graceful_timeout": 10}, 5.0),
        ({"graceful_timeout": 20, "timeout": 3}, 3.0),
        ({"timeout": 0}, 10.0),
    ],
    ids=str,
)
def test_a_close_keeps_within_what_gunicorn_gives(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch, settings: dict[str, float], seconds: float
) -> None:
    asked: list[float | None] = []
    close = EventBus.close

    def spy(self: EventBus, timeout: float | None = None) -> eventbus.CloseReport:
        asked.append(timeout)
        return close(self, timeout)

    monkeypatch.setattr(EventBus, "close", spy)
    own, worker = hooks(lambda: bus), worker_of(**settings)
    own.post_worker_init(worker)
    own.worker_exit(SERVER, worker)
    (given,) = asked
    assert given is not None
    assert 0.0 <= seconds - given < 0.5


def test_a_worker_boots_while_the_broker_is_away(bus: EventBus) -> None:
    broker = MemoryOutages("hooks")
    broker.refuse()
    hooks(lambda: bus).post_worker_init(worker_of())
    assert bus.get_connection_state().phase is Phase.RECONNECTING
    broker.restore()
    wait_until(lambda: bus.get_connection_state().is_connected)
