"""The memory broker does what every backend does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventbus import EventBusConfig, MemoryConfig
from eventbus.testing.conformance import BackendConformance
from eventbus.testing.memory import MemoryOutages
from eventbus.testing.outages import Outages


class TestMemoryConformance(BackendConformance):
    def config(self) -> EventBusConfig:
        return EventBusConfig(backend=MemoryConfig(name="conformance"))

    def outages(self) -> Outages:
        return MemoryOutages("conformance")

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _own_broker(cls) -> Iterator[None]:
        yield
        MemoryOutages("conformance").forget()
