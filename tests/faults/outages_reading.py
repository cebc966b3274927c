"""Reading the past through outages: what was stored is read once, in order, or a typed error says why not."""

from __future__ import annotations

import threading
import time

import pytest
from outages_base import OutageBase

from eventbus import EventBus, Message, NotConnectedError
from eventbus.testing import wait_until
from eventbus.testing.outages import not_applicable

COUNT = 5000
PADDING = "." * 2000
"""More than clients, and we, read in front of whoever iterates."""


class ReadingOutages(OutageBase):
    """The broker goes while the past is read."""

    @pytest.mark.outage("a")
    def test_killed_in_the_middle_of_reading_it_is_read_on(self) -> None:
        bus = self._filled()
        excerpt = bus.read(self.topic)
        messages = [next(excerpt) for _ in range(10)]
        self.broker.kill()
        self.wait_lost(bus)
        restored = threading.Timer(0.3, self.broker.restore)
        restored.start()
        try:
            messages += excerpt
        finally:
            restored.join()
        self._assert_whole(messages)
        self.wait_back(bus, 1)

    @pytest.mark.outage("i")
    def test_an_outage_that_lasts_ends_the_reading_in_time(self) -> None:
        bus = self._filled()
        excerpt = bus.read(self.topic, timeout=1.0)
        next(excerpt)
        self.broker.kill()
        started = time.monotonic()
        try:
            with pytest.raises(NotConnectedError, match=self.topic):
                list(excerpt)
            assert time.monotonic() - started < 3.0 + self.slack
            started = time.monotonic()
            with pytest.raises(NotConnectedError):
                bus.read(self.topic, timeout=0.5)
            assert time.monotonic() - started < 1.5 + self.slack
        finally:
            self.broker.restore()
        wait_until(lambda: bus.get_health_status().is_healthy, 20.0, message=self.describe)
        self._assert_whole(list(bus.read(self.topic)))

    @pytest.mark.outage("h")
    def test_closing_amid_an_outage_ends_the_reading_in_time(self) -> None:
        bus = self._filled()
        excerpt = bus.read(self.topic)
        next(excerpt)
        self.broker.freeze()
        started = time.monotonic()
        excerpt.close()
        assert time.monotonic() - started < 3.0
        assert bus.close(2.0).unfinished_threads == ()
        assert time.monotonic() - started < 6.0

    def _filled(self) -> EventBus:
        bus = self.open()
        if not bus.features.readable:
            not_applicable("nothing is stored, so nothing is read")
        bus.publish_many([Message(self.topic, f"{number} {PADDING}", key=f"k{number % 5}") for number in range(COUNT)])
        return bus

    def _assert_whole(self, messages: list[Message]) -> None:
        places: dict[object, list[int]] = {}
        for message in messages:
            places.setdefault(message.partition, []).append(message.offset or 0)
        assert all(offsets == sorted(set(offsets)) for offsets in places.values())
        assert sorted(int(message.text().split()[0]) for message in messages) == list(range(COUNT))
