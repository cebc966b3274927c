"""What is logged of a first connection: nothing was lost, so nothing warns, and nothing came "again"."""

import logging

import pytest

from eventbus import EventBus, Phase
from eventbus.testing.memory import MemoryOutages
from eventbus.testing.wait import wait_until


def test_a_first_connection_that_nobody_waits_for_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "eventbus"):
        bus = EventBus("memory://first-log")
        bus.open(wait=False)
        wait_until(lambda: bus.get_connection_state().phase is Phase.CONNECTED)
        wait_until(lambda: any("connected after" in line for line in caplog.messages))
        bus.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert not any("again" in line for line in caplog.messages)


def test_a_connection_that_is_lost_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "eventbus"):
        bus, outages = EventBus("memory://lost-log"), MemoryOutages("lost-log")
        bus.open()
        outages.kill()
        wait_until(lambda: any("CONNECTED -> RECONNECTING" in line for line in caplog.messages))
        outages.restore()
        wait_until(lambda: any("connected again" in line for line in caplog.messages))
        bus.close()
    (lost,) = [record for record in caplog.records if "CONNECTED -> RECONNECTING" in record.getMessage()]
    assert lost.levelno == logging.WARNING
