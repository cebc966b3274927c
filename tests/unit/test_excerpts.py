"""What reading the past promises whoever iterates, whatever interrupts him."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from instants import OURS, Instants, Interrupted

from eventbus import EventBus, Message
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages


@pytest.fixture
def bus() -> Iterator[EventBus]:
    with EventBus("memory://excerpts") as made:
        made.publish_many([Message("t", str(number)) for number in range(600)])
        yield made
    MemoryOutages("excerpts").forget()


def interrupt() -> None:
    raise Interrupted


def test_an_exception_at_any_instruction_costs_no_more_than_the_message_of_that_call(bus: EventBus) -> None:
    at, ended = 0, False
    while not ended:
        at += 1
        excerpt = bus.read("t")
        first = next(excerpt)
        wait_until(lambda: len(excerpt._channel._batches) == 2, 5.0)  # noqa: B023 - it is over within this turn
        found = [first, *[next(excerpt) for _ in range(255)]]
        instants = Instants(at, interrupt, OURS)
        with suppress(Interrupted):
            instants.run(lambda: found.append(next(excerpt)))  # noqa: B023 - the first one of the next batch
        ended = instants.count < at
        numbers = [int(message.text()) for message in [*found, *excerpt]]
        assert numbers == sorted(set(numbers)), f"instruction {at}: one came twice"
        assert len(numbers) >= 599, f"instruction {at}: {600 - len(numbers)} are missing"
    assert at > 10
