"""All outage cases on a real Apache Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

pytest.importorskip("confluent_kafka")

from drivers import Driver
from kafka_driver import KafkaDriver, make_server
from outages import OutageSuite
from outages_base import Watch

from eventbus import EventBus, Phase, PublishUnknownError
from eventbus.testing import KafkaServer, wait_until
from eventbus.testing.plugin import skip_or_fail

CORE = "the backend has no part in it, and restarts take their time: shown on memory and NATS"


@pytest.mark.kafka
class TestKafkaOutages(OutageSuite):
    backend = "kafka"
    slack = 1.0  # librdkafka's threads hear of an end once a second
    reconnects = 25
    growth = 2000
    patience = 0.8
    left_out: ClassVar = {
        "test_killed_and_restored_on_default_settings": "20 s a round: see tests/integration/test_kafka_event_bus.py",
        "test_registered_twice_is_called_once_and_unregistered_never": CORE,
        "test_a_callback_that_raises_disturbs_nobody": CORE,
        "test_start_stop_and_close_may_be_repeated": CORE,
        "test_unsubscribed_during_the_outage_stays_away": CORE,
    }
    server: ClassVar[KafkaServer]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _own_server(cls) -> Iterator[None]:
        with skip_or_fail():
            cls.server = make_server().start()
        try:
            yield
        finally:
            cls.server.close()

    def make_driver(self) -> Driver:
        return KafkaDriver(self.server)

    @pytest.mark.outage("g")
    def test_after_stop_nothing_reconnects_until_it_is_started_again(self) -> None:
        """Nobody looks: the phase stays, and librdkafka comes back by itself."""
        bus = self.open()
        watch = Watch(bus)
        sub = self.listen(bus)
        self.wait_active(sub)
        assert bus.stop_health_check()
        self.broker.kill()
        with pytest.raises(PublishUnknownError):
            bus.publish(self.topic, self.history.payload("k", 1), key="k", timeout=0.3)
        assert bus.get_connection_state().phase is Phase.CONNECTED
        self.broker.restore()
        self.publish(bus, 2)
        self.settle(sub, handled=2)
        self.assert_history()
        bus.start_health_check()
        before = bus.get_health_status().last_success_time
        wait_until(lambda: bus.get_health_status().last_success_time != before)
        assert bus.get_connection_state().reconnect_count == 0
        assert (watch.phases, watch.reconnects) == ([], [])

    def _cut_times(self, bus: EventBus, times: int) -> None:
        """Cut links are mended unseen here: it is the rebuild that may not leave anything."""
        for _ in range(times):
            self.broker.cut()
            bus.reconnect(timeout=5.0)
            wait_until(lambda: bus.get_health_status().is_healthy)
