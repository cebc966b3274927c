"""A JetStream API that answers with errors for a while: what passes is waited out, and is told for what it is."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest
from rounds import limit

from eventbus import EventBus, PublishNotSentError, PublishRejectedError
from eventbus.testing import NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(60.0))]

PASSING = {
    10002: 400,
    10005: 400,
    10008: 503,
    10023: 503,
    10028: 500,
    10041: 500,
    10047: 500,
    10075: 503,
    10077: 503,
    10118: 500,
    10119: 500,
    10167: 429,
}
"""What nats-server may say where it has no room, no leader or no peers: `err_code` and `code`."""
BRIEF = {10008, 10041, 10075, 10167}
"""Of these, what is waited for where it is said: nobody hears of it for some seconds."""
LASTING = {10026: 400, 10027: 400, 10052: 500}


class Front:
    """Answers as JetStream under another prefix, or with an error. failing: operations; error: what they answer."""

    PREFIX = "FRONT.API"

    def __init__(self, server: NatsServer) -> None:
        self.failing: tuple[str, ...] = ()
        self.error, self.failures = (0, 0), 0
        self._socket = socket.create_connection(server.address)
        self._lines = self._socket.makefile("rb")
        options = {"verbose": False, "headers": True, "no_responders": True}
        text = f"CONNECT {json.dumps(options)}\r\nSUB {self.PREFIX}.> 1\r\nPING\r\n"
        self._socket.sendall(text.encode())
        while self._lines.readline() != b"PONG\r\n":
            pass
        self._thread = threading.Thread(target=self._run, name="front")
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._lines.close()
        self._socket.close()

    def _run(self) -> None:
        while fields := self._lines.readline().split():
            if fields[0] == b"PING":
                self._socket.sendall(b"PONG\r\n")
            elif fields[0] == b"MSG":
                data = self._lines.read(int(fields[-1]) + 2)[:-2]
                self._answer(fields[1].decode().removeprefix(f"{self.PREFIX}."), fields[3], data)

    def _answer(self, operation: str, reply: bytes, data: bytes) -> None:
        if self.failing and operation.startswith(self.failing):
            self.failures += 1
            error = {"code": self.error[0], "err_code": self.error[1], "description": "not now"}
            answer = json.dumps({"error": error}).encode()
            self._socket.sendall(b"PUB %b %d\r\n%b\r\n" % (reply, len(answer), answer))
        else:
            frame = b"PUB $JS.API.%b %b %d\r\n%b\r\n" % (operation.encode(), reply, len(data), data)
            self._socket.sendall(frame)


@pytest.fixture
def front(nats_server: NatsServer) -> Iterator[Front]:
    made = Front(nats_server)
    yield made
    made.close()


@pytest.fixture
def bus(nats_server: NatsServer, front: Front) -> Iterator[EventBus]:
    with EventBus({"url": nats_server.url, "api_prefix": Front.PREFIX}) as made:
        yield made


@pytest.mark.parametrize("failing", ["STREAM.NAMES", "STREAM.CREATE", "STREAM.INFO"])
def test_what_passes_while_a_stream_is_looked_for_is_waited_out(bus: EventBus, front: Front, failing: str) -> None:
    for number, code in PASSING.items():
        front.failures, front.error, front.failing = 0, (code, number), (failing,)
        published = bus.publish_async(f"t{number}.x", b"x", timeout=20.0)
        if number not in BRIEF:
            with pytest.raises(PublishNotSentError, match="not now"):
                bus.publish(f"u{number}.x", b"x", timeout=0.5)
        wait_until(lambda: front.failures > 3)
        assert not published.done(), published.exception(0)
        front.failing = ()
        assert published.result(20.0).confirmed, number


@pytest.mark.parametrize("number", LASTING)
def test_what_lasts_is_rejected(bus: EventBus, front: Front, number: int) -> None:
    front.error, front.failing = (LASTING[number], number), ("STREAM.CREATE",)
    with pytest.raises(PublishRejectedError, match="not now"):
        bus.publish("orders.x", b"x", timeout=20.0)
