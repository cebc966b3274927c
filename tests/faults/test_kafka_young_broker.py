"""A broker that has just started, or was frozen, knows of no broker for a moment, not even of itself."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka.admin import AdminClient
from raw_kafka import native_clients

from eventbus import ConnectFailedError, EventBus, EventBusConfig, KafkaConfig
from eventbus.backends.kafka.clients.connecting import connected_admin, drop
from eventbus.backends.kafka.clients.errors import ClientErrors
from eventbus.backends.kafka.clients.options import ClientOptions
from eventbus.testing import wait_until
from eventbus.threads import StopToken

PRODUCE, METADATA, API_VERSIONS, INIT_PRODUCER_ID = 0, 3, 18, 22
MODERN = {PRODUCE: (0, 7), METADATA: (0, 2), API_VERSIONS: (0, 0), INIT_PRODUCER_ID: (0, 1)}
OLD = {PRODUCE: (0, 1), METADATA: (0, 2), API_VERSIONS: (0, 0)}
UNSUPPORTED = 35
TIMEOUT = 5.0


class YoungBroker(socketserver.ThreadingTCPServer):
    """Speaks as much of Kafka as a connect needs; its first `empty` answers about the cluster hold nothing."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, empty: int, apis: Mapping[int, tuple[int, int]]) -> None:
        super().__init__(("127.0.0.1", 0), _Link)
        self.apis = apis
        self.left = empty
        self.asked = 0

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.server_address)


class _Link(socketserver.BaseRequestHandler):
    request: socket.socket
    server: YoungBroker

    def handle(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                (length,) = struct.unpack(">i", self._read(4))
                api, version, number = struct.unpack(">hhi", self._read(length)[:8])
                if api in (API_VERSIONS, METADATA):
                    answer = self._versions(version) if api == API_VERSIONS else self._cluster()
                    self.request.sendall(struct.pack(">ii", len(answer) + 4, number) + answer)

    def _versions(self, version: int) -> bytes:
        if version:
            return struct.pack(">hihhh", UNSUPPORTED, 1, API_VERSIONS, 0, 0)
        apis = [struct.pack(">hhh", api, *versions) for api, versions in self.server.apis.items()]
        return struct.pack(">hi", 0, len(apis)) + b"".join(apis)

    def _cluster(self) -> bytes:
        """Metadata version 2: brokers, the cluster's id, its controller, topics."""
        self.server.asked += 1
        self.server.left -= 1
        brokers, controller = b"", -1
        if self.server.left < 0:
            host, port = self.server.server_address
            name = str(host).encode()
            brokers, controller = struct.pack(f">ih{len(name)}sih", 1, len(name), name, port, -1), 1
        return struct.pack(">i", bool(brokers)) + brokers + struct.pack(">h5sii", 5, b"young", controller, 0)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.request.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data


@pytest.fixture
def young_broker() -> Iterator[Callable[..., YoungBroker]]:
    with contextlib.ExitStack() as stack:

        def make(empty: int, apis: Mapping[int, tuple[int, int]] = MODERN) -> YoungBroker:
            broker = stack.enter_context(YoungBroker(empty, apis))
            threading.Thread(target=broker.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(broker.shutdown)
            return broker

        yield make


@pytest.mark.parametrize("empty", [0, 1, 2, 5])
def test_it_is_asked_again(young_broker: Callable[..., YoungBroker], empty: int) -> None:
    broker = young_broker(empty)
    started = time.monotonic()
    producer = connect(broker)
    try:
        assert time.monotonic() - started < TIMEOUT
        assert broker.asked > empty
        assert [*producer.list_topics(timeout=TIMEOUT).brokers] == [1]
    finally:
        drop([producer], "young")
        del producer
        wait_until(no_client_is_left)


def test_one_that_is_too_old_is_a_failed_connect(young_broker: Callable[..., YoungBroker]) -> None:
    bus = EventBus(EventBusConfig(backend=KafkaConfig(brokers=young_broker(0, OLD).address)))
    with pytest.raises(ConnectFailedError, match="not supported"):
        bus.open(TIMEOUT)
    bus.close(TIMEOUT)
    wait_until(no_client_is_left)


def connect(broker: YoungBroker) -> AdminClient:
    options = ClientOptions(KafkaConfig(brokers=broker.address), "young")
    return connected_admin(options, ClientErrors("young"), TIMEOUT, StopToken())


def no_client_is_left() -> bool:
    return native_clients() == 0
