"""Dead letters on streams that others narrow: what is not permitted is said, typed and soon."""

from __future__ import annotations

import time

import pytest
from rounds import limit
from test_nats_narrow import bus_of, users

from eventbus import EventBus, Message, PurgeError, ReadError
from eventbus.cli import main
from eventbus.testing import NatsServer, TcpProxy

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


def test_a_slip_in_the_name_of_a_topic_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The stream takes any topic of that kind, so that nobody knows whether there is one."""
    with NatsServer() as server:
        with EventBus(server.url) as bus:
            bus.publish(TOPIC, "x")
        assert main(["dlq", "show", "dlq.g.slip", "--url", server.url]) == 1
        assert "dlq.g.slip holds nothing, or is not there" in capsys.readouterr().err


def test_many_topics_of_dead_letters_are_listed_from_afar() -> None:
    topics = sorted(f"dlq.g.t{number}" for number in range(80))
    with NatsServer() as server, TcpProxy(*server.address) as proxy:
        with EventBus(server.url) as near:
            near.publish_many([Message(topic, "x") for topic in topics for _ in range(2)])
        proxy.delay(0.03)
        with EventBus(f"nats://127.0.0.1:{proxy.port}") as bus:
            found = bus.list_dead_letters(timeout=3.0)
    assert [(one.topic, one.messages) for one in found] == [(topic, 2) for topic in topics]
    assert all(one.oldest and one.newest and one.oldest <= one.newest for one in found)
