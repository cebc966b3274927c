"""The outage verbs on a real Apache Kafka, with a TcpProxy in front of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary, WeakSet

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from drivers import Driver
from raw_kafka import native_clients

from eventbus import AuthenticationError, EventBus, EventBusConfig, KafkaConfig, Subscription
from eventbus.backends.kafka.backend import KafkaBackend
from eventbus.backends.kafka.clients.fork_safety import AdminClient, Consumer, Producer
from eventbus.backends.kafka.names import group_id
from eventbus.backends.kafka.publishing.publisher import KafkaPublisher
from eventbus.backends.kafka.session import KafkaSession
from eventbus.message import matches
from eventbus.testing import KafkaServer, wait_until
from eventbus.testing.outages import ServerOutages

USER = "tester"
PASSWORD = "s3cret pass/word"
PARTITIONS = 4
_ANSWER = 5.0


def make_server() -> KafkaServer:
    """A broker for a whole class of tests: it is back 1 s after kill -9, and misses a silent consumer after 2 s."""
    return KafkaServer(
        proxied=True,
        user=USER,
        password=PASSWORD,
        acl=True,
        settings={
            "broker.session.timeout.ms": 400,
            "broker.heartbeat.interval.ms": 80,
            "group.consumer.session.timeout.ms": 2000,
            "group.consumer.heartbeat.interval.ms": 500,
        },
    )


class KafkaDriver(ServerOutages, Driver):
    """One test's view of a broker that others have used before."""

    backend = "kafka"

    def __init__(self, server: KafkaServer) -> None:
        super().__init__(server, server.proxy)
        self._server = server
        self._proxy = server.proxy
        self._password = PASSWORD
        self._denied: set[str] = set()
        self._patches = ExitStack()
        self._made = Made(self._patches)
        self._askers: dict[str, Any] = {}

    def backend_config(self, password: str = PASSWORD) -> KafkaConfig:
        return KafkaConfig(brokers=self._server.bootstrap, user=USER, password=password, partitions=PARTITIONS)

    def config(self, **changes: Any) -> EventBusConfig:
        return super().config(**{"connect_timeout": 0.7, **changes})

    def close(self) -> None:
        self._patches.close()
        self.thaw()
        for topic in set(self._denied):
            self.allow_topic(topic)
        if self._password != PASSWORD:
            self.change_password_back()
        if not self._server.running:
            self._server.start()
        self._proxy.accept()
        self._proxy.cut()
        self._server.wait_ready()
        self._askers.clear()
        wait_until(lambda: native_clients() == 0, message=lambda: f"{native_clients()} clients of librdkafka are left")

    def kill(self) -> None:
        self._askers.clear()  # they would take their time to come back
        super().kill()

    def restore(self) -> None:
        if self._denied:  # rules are for a broker that runs: nobody gets through before they are there
            self._proxy.black_hole()
        self._server.start()
        for topic in self._denied:
            self._server.access.deny(USER, topic)
        self._proxy.accept()

    def thaw(self) -> None:
        super().thaw()
        self._proxy.accept()

    def slow(self, seconds: float) -> None:
        self._proxy.delay(seconds / 2)  # each way

    def refuse_topic(self, topic: str) -> None:
        self._denied.add(topic)
        if self._frozen:  # it takes no rules; to the bus a black hole is the same
            self._proxy.black_hole()
            self._server.thaw()
            self._frozen = False
        if self._server.running:
            self._server.access.deny(USER, topic)

    def allow_topic(self, topic: str) -> None:
        self._denied.discard(topic)
        if self._server.running:
            self._server.access.restore(USER, topic)

    def restore_broken(self, step: str) -> None:
        """A link that dies is none of our business here, librdkafka makes another: it is the producer that fails."""
        owner: Any = KafkaPublisher if step == "publish" else KafkaSession
        original, left = getattr(owner, step), itertools.chain([True], itertools.repeat(False))

        def broken(subject: Any, *args: Any) -> Any:
            if next(left):
                outbox = subject if step == "publish" else subject.outbox
                outbox._client_failed(KafkaError(KafkaError._FATAL, "broken on purpose"))
            return original(subject, *args)

        self._patches.enter_context(mock.patch.object(owner, step, broken))
        self.restore()

    def wrong_password(self) -> EventBusConfig:
        return self.config(backend=self.backend_config("wrong"))

    def change_password(self) -> None:
        self._restart_with("another")

    def change_password_back(self) -> None:
        self._restart_with(PASSWORD)

    def _restart_with(self, password: str) -> None:
        self.kill()
        self._password = password
        self._server.reconfigure(password=password)
        self.restore()

    def logins(self) -> int:
        """As the bus tries: what the clients of the old session do by themselves nobody can stop."""
        return self._made.refused

    def handles(self) -> int:
        """librdkafka's links, and their descriptors, come and go: what may not grow is the number of its clients."""
        return native_clients()

    def links(self) -> int:
        """How many sessions have not ended: a session's admin client stands for all its links."""
        return len(self._made.open)

    def known_of(self, bus: EventBus) -> object:
        bus.publish("known", b"", timeout=30.0)  # so that there is a producer
        session: Any = bus._supervisor.session
        wait_until(lambda: None not in session.clients)
        return sorted(self._made.options_of(client) for client in session.clients)

    def unacknowledged(self, sub: Subscription) -> int:
        if sub.group is None:
            return 0
        asking = self._asking(group_id(sub.group, sub.topic))
        topics = asking.list_topics(timeout=_ANSWER).topics
        places = [
            TopicPartition(topic, partition)
            for topic in topics
            if matches(sub.topic, topic)
            for partition in topics[topic].partitions
        ]
        try:
            committed = asking.committed(places, _ANSWER) if places else []
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_COORDINATOR:  # of a broker that has just started
                raise
            return 1
        return sum(asking.get_watermark_offsets(place, _ANSWER)[1] - max(0, place.offset) for place in committed)

    def serves(self, sub: Subscription) -> bool:
        """Whether it has partitions; a pattern that nothing matches needs none."""
        attachment = sub._work.attachment
        reader = attachment and attachment.session.consumers.reader_of(attachment)
        return reader is None or not reader.topics or bool(reader.states)

    def _asking(self, group: str) -> Any:
        """A consumer that never joins. An admin client would do, but librdkafka aborts the process in there."""
        if group not in self._askers:
            self._askers[group] = Consumer(
                {"bootstrap.servers": self._server.inner_bootstrap, "group.id": group, "log_level": 0}
            )
        return self._askers[group]


class Made:
    """What the clients of librdkafka were made with while this is at work, and what became of them."""

    def __init__(self, patches: ExitStack) -> None:
        self.open: WeakSet[AdminClient] = WeakSet()
        self.refused = 0
        self._options: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        for kind in (Producer, Consumer, AdminClient):
            patches.enter_context(mock.patch.object(kind, "__init__", self._noting(kind.__init__)))
        patches.enter_context(mock.patch.object(KafkaBackend, "connect", self._connecting(KafkaBackend.connect)))

    def options_of(self, client: Any) -> str:
        return self._options[client]

    def _noting(self, original: Callable[..., None]) -> Callable[..., None]:
        def init(client: Any, options: dict[str, Any], **more: Any) -> None:
            original(client, options, **more)
            plain = {key: value for key, value in options.items() if not callable(value) and key != "logger"}
            self._options[client] = json.dumps(plain, sort_keys=True)
            if isinstance(client, AdminClient):
                self.open.add(client)

        return init

    def _connecting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(backend: Any, context: Any) -> Any:
            try:
                return original(backend, context)
            except AuthenticationError:
                self.refused += 1
                raise

        return connect
