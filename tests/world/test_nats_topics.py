"""Topics without number, on NATS: one for each order, say."""

from __future__ import annotations

import pytest
from nats_accounts import PUBLISHER, bus_of, users
from rounds import limit, rounds

from eventbus import EventBus
from eventbus.testing import NatsServer

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(60.0))]

IN_TIME = 40.0
"""Seconds. It takes one or two; where each new topic looked at all the others it took minutes."""


def test_a_topic_for_each_message_of_an_account_that_may_only_publish() -> None:
    number = rounds(12_000, 100_000)
    with NatsServer(config=users(publisher=PUBLISHER)) as server:
        with bus_of(server, "admin") as admin:
            admin.publish("orders.new", b"so that the stream is there")
        with bus_of(server, "publisher", max_in_flight=number) as bus:
            for order in range(number):
                bus.publish_nowait(f"orders.{order}", b"x")
            report = bus.flush(IN_TIME)
            assert (report.unanswered, report.failed) == (0, ())


def test_a_topic_for_each_message(nats_server: NatsServer) -> None:
    number = rounds(30_000, 200_000)
    with EventBus({"url": nats_server.url, "max_in_flight": number}) as bus:
        for order in range(number):
            bus.publish_nowait(f"orders.{order}", b"x")
        report = bus.flush(IN_TIME)
        assert (report.unanswered, report.failed) == (0, ())
        assert bus.get_statistics().confirmed == number
