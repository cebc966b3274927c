"""All outage cases on the memory broker, in milliseconds each."""

from __future__ import annotations

from drivers import Driver, MemoryDriver
from outages import OutageSuite


class TestMemoryOutages(OutageSuite):
    backend = "memory"
    not_applicable = {"o": "memory has no passwords"}

    def make_driver(self) -> Driver:
        return MemoryDriver()
