"""Dead letters on streams that others narrow: what is not permitted is said, typed and soon."""

from __future__ import annotations

import time

import pytest
from rounds import limit
from test_nats_narrow import bus_of, users

from eventbus import PurgeError, ReadError
from eventbus.testing import NatsServer

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(40.0))]

KEEPER = {"publish": {"deny": ["$JS.API.STREAM.PURGE.>"]}}
BLIND = {"publish": {"deny": ["$JS.API.STREAM.INFO.>", "$JS.API.STREAM.NAMES"]}}
TOPIC = "dlq.g.t"


def test_a_right_that_lacks_is_said_at_once() -> None:
    with NatsServer(config=users(keeper=KEEPER, blind=BLIND)) as server, bus_of(server, "admin") as bus:
        bus.publish(TOPIC, "x")
        began = time.monotonic()
        with bus_of(server, "keeper") as keeper, pytest.raises(PurgeError, match="ermissions"):
            keeper.purge_dead_letters(TOPIC)
        with bus_of(server, "blind") as blind, pytest.raises(ReadError, match="ermissions"):
            blind.list_dead_letters()
        assert time.monotonic() - began < 4.0
        assert len(list(bus.read(TOPIC))) == 1
        assert bus.purge_dead_letters(TOPIC) == 1
