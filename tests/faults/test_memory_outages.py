"""All outage cases on the memory broker, in milliseconds each."""

from __future__ import annotations

from typing import ClassVar

from drivers import Driver, MemoryDriver
from outages import OutageSuite


class TestMemoryOutages(OutageSuite):
    backend = "memory"
    not_applicable: ClassVar = {"o": "memory has no passwords"}

    def make_driver(self) -> Driver:
        return MemoryDriver()
