"""The fixtures of this folder, and the leak guard for every test in it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from testing_support import TIMEOUT, Target, Wire, is_readable

from eventbus.testing import LeakGuard
from eventbus.testing.plugin import skip_or_fail
from eventbus.testing.servers.kafka_source import find_kafka


@pytest.fixture(autouse=True)
def _no_leaks(eventbus_leaks: LeakGuard) -> None:
    """Nothing here may leave anything behind."""


@pytest.fixture(autouse=True)
def _kafka(request: pytest.FixtureRequest) -> None:
    """A test of real Kafka is skipped, or fails where CI is set, on a machine that has none."""
    if request.node.get_closest_marker("kafka") is not None:
        with skip_or_fail():
            find_kafka(external=False, docker=False)


@pytest.fixture
def wire() -> Iterator[Callable[..., Wire]]:
    """`wire(address, **login)` connects to a server and reads its INFO."""
    with ExitStack() as stack:

        def connect(address: tuple[str, int], **login: Any) -> Wire:
            made = Wire(socket.create_connection(address, TIMEOUT), **login)
            stack.callback(made.close)
            return made

        yield connect


@pytest.fixture
def target() -> Iterator[Target]:
    """A plain TCP server for the proxy."""
    with ExitStack() as stack:
        yield Target(stack)


@pytest.fixture
def readable() -> Callable[[socket.socket, float], bool]:
    """Whether a socket hears something in time."""
    return is_readable
