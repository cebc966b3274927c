"""Fixtures of the engine tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from engine_support import FakeBus, connected

from eventbus.testing import NatsServer
from eventbus.testing.plugin import skip_or_fail


@pytest.fixture
def bus() -> FakeBus:
    return FakeBus()


@pytest.fixture
def connect(bus: FakeBus) -> Iterator[Callable[..., Any]]:
    """`connect(server, **config)`: a session that is closed after the test."""
    with ExitStack() as stack:
        yield lambda server, **config: stack.enter_context(connected(bus, server, **config))


@pytest.fixture
def serve() -> Iterator[Callable[..., NatsServer]]:
    """`serve(**options)`: a server of its own for this test."""
    with ExitStack() as stack:

        def start(**options: Any) -> NatsServer:
            with skip_or_fail():
                server = NatsServer(**options)
                stack.callback(server.close)
                return server.start()

        yield start
