"""What the conformance suite asks of dead letters once they are there: listed, published again, deleted."""

from __future__ import annotations

import pytest

from ..bus import EventBus
from ..config_delivery import RetryConfig
from ..errors import UnsupportedError
from ..message import Message
from ..reports import ReplayReport
from ._conformance import PublishingConformance
from .wait import wait_until

ONCE = RetryConfig(max_attempts=1)
LONG = 20.0
"""Seconds for what takes a fraction of one on a quiet machine."""


class _Shop:
    """A handler that fails as long as it is broken."""

    def __init__(self) -> None:
        self.broken = True
        self.failed: list[Message] = []
        self.handled: list[Message] = []

    def __call__(self, message: Message) -> None:
        if self.broken:
            self.failed.append(message)
            raise ValueError("not in stock")
        self.handled.append(message)


class DeadLetterConformance(PublishingConformance):
    """Replays and purges, where messages are stored."""

    def _dead(self, count: int) -> tuple[EventBus, _Shop]:
        bus, shop = self.open(retry=ONCE), _Shop()
        self.need(bus, readable="nothing is stored")
        bus.subscribe(self.topic, shop, group="g")
        bus.publish_many([Message(self.topic, str(number), key=f"k{number % 3}") for number in range(count)])
        self._settled(bus, count)
        return bus, shop

    def _settled(self, bus: EventBus, dead: int) -> None:
        wait_until(lambda: bus.get_statistics().dead_lettered == dead, LONG)

    @property
    def _letters(self) -> str:
        return f"dlq.g.{self.topic}"

    def test_a_dead_letter_is_replayed_and_handled_under_its_id(self) -> None:
        bus, shop = self._dead(1)
        receipt = bus.publish(self.topic, b"\x00\xff", key="k", headers={"trace": "1"}, id="my/id-1")
        self._settled(bus, 2)
        shop.broken = False
        report = bus.replay_dead_letters(self._letters, filter=lambda message: message.id == receipt.id)
        assert (report.replayed, report.skipped, report.duplicates, report.failed) == (1, 1, 0, 0)
        wait_until(lambda: shop.handled, LONG)
        (message,) = shop.handled
        assert (message.id, message.payload, message.key) == ("my/id-1", b"\x00\xff", "k")
        assert dict(message.headers) == {"trace": "1", "Eventbus-Dead-Replays": "1"}

    def test_a_replay_that_fails_again_is_another_dead_letter(self) -> None:
        bus, shop = self._dead(1)
        report = ReplayReport()
        for replays in (1, 2):
            report = bus.replay_dead_letters(self._letters, start=report.next)
            assert (report.replayed, report.duplicates) == (1, 0), "only the latest of them"
            self._settled(bus, 1 + replays)
        letters = list(bus.read(self._letters))
        assert len({letter.id for letter in letters}) == 1
        assert sorted(letter.headers.get("Eventbus-Dead-Replays", "0") for letter in letters) == ["0", "1", "2"]
        shop.broken = False
        bus.replay_dead_letters(self._letters, start=report.next)
        wait_until(lambda: shop.handled, LONG)

    def test_a_replay_goes_on_where_a_limit_ended_it(self) -> None:
        bus, shop = self._dead(10)
        bus.publish(self._letters, "no dead letter")
        shop.broken = False
        first = bus.replay_dead_letters(self._letters, limit=4)
        rest = bus.replay_dead_letters(self._letters, start=first.next)
        assert (first.replayed, rest.replayed, rest.duplicates) == (4, 6, 0)
        assert first.foreign + rest.foreign == 1
        wait_until(lambda: len(shop.handled) == 10, LONG)
        assert sorted(message.text() for message in shop.handled) == sorted(map(str, range(10)))

    def test_dead_letters_are_listed_and_purged(self) -> None:
        bus, _ = self._dead(5)

        def found() -> list[int]:
            return [one.messages for one in bus.list_dead_letters() if one.topic == self._letters]

        assert found() == [5]
        (mine,) = [one for one in bus.list_dead_letters() if one.topic == self._letters]
        times = sorted(message.timestamp for message in bus.read(self._letters) if message.timestamp)
        assert (mine.oldest, mine.newest) == (times[0], times[-1])
        other = f"dlq.other.{self.topic}"
        bus.publish(other, "stays")
        assert bus.purge_dead_letters(self._letters) == 5
        assert list(bus.read(self._letters)) == []
        assert len(list(bus.read(other))) == 1
        assert sum(found()) == 0
        bus.publish(self.topic, "again")
        self._settled(bus, 6)
        wait_until(lambda: found() == [1], LONG)

    def test_there_is_as_much_time_for_them_as_one_likes(self) -> None:
        bus, shop = self._dead(1)
        shop.broken = False
        for timeout in (4000.0, 1e30, float("inf")):
            assert self._letters in [one.topic for one in bus.list_dead_letters(timeout=timeout)]
        assert len(list(bus.read(self._letters, timeout=1e30))) == 1
        assert bus.replay_dead_letters(self._letters, timeout=1e30).replayed == 1
        assert bus.purge_dead_letters(self._letters, timeout=1e30) == 1

    def test_where_nothing_is_stored_there_is_nothing_to_replay(self) -> None:
        bus = self.open()
        if bus.features.readable:
            pytest.skip("not applicable: messages are stored")
        for call in (
            bus.list_dead_letters,
            lambda: bus.replay_dead_letters(self._letters),
            lambda: bus.purge_dead_letters(self._letters),
        ):
            with pytest.raises(UnsupportedError):
                call()
