"""Fixtures of the world's tests."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from rounds import chance_of
from world_support import MakeBus, Outages, end, fresh

import eventbus
from eventbus.testing import NatsServer


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The chance of this test, from the seed that it prints."""
    return chance_of(request.node.name)


@pytest.fixture
def outages() -> Iterator[Outages]:
    """The outages of a memory broker of this test's own; its bus is made by `memory_bus`."""
    broker = Outages(fresh("world"))
    yield broker
    broker.restore()
    broker.forget()


@pytest.fixture
def memory_bus(outages: Outages) -> Iterator[MakeBus]:
    """`memory_bus(**settings)` makes a bus on this test's own memory broker; closed after the test."""
    with ExitStack() as stack:

        def make(**settings: object) -> eventbus.EventBus:
            bus = eventbus.EventBus({"url": f"memory://{outages.name}", **settings})
            stack.callback(end, bus)
            return bus

        yield make


@pytest.fixture(scope="session", params=["memory", pytest.param("jetstream", marks=pytest.mark.nats)])
def backend(request: pytest.FixtureRequest) -> NatsServer | None:
    """The server of this turn, None for memory; of the session, so that it is there before a test is guarded."""
    return request.getfixturevalue("nats_server_shared") if request.param == "jetstream" else None


@pytest.fixture
def make_bus(backend: NatsServer | None, memory_bus: MakeBus) -> Iterator[MakeBus]:
    """`make_bus(**settings)` makes a bus, on memory and then on JetStream; closed after the test."""
    if backend is None:
        yield memory_bus
        return
    with ExitStack() as stack:

        def make(**settings: object) -> eventbus.EventBus:
            bus = eventbus.EventBus({"url": backend.url, **settings})
            stack.callback(end, bus)
            return bus

        yield make
