"""What the engine tests share: a bus that is not there, and servers that misbehave by script."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from eventbus.backends.base import SessionContext
from eventbus.backends.nats import NatsBackend
from eventbus.backends.nats.jetstream.in_hand import NatsInHand
from eventbus.config import NatsConfig
from eventbus.consuming.attachment import Attachment
from eventbus.consuming.lease import Lease
from eventbus.consuming.subscriptions import Subscription
from eventbus.message import Delivery, IdMint
from eventbus.publishing.records import Extras, Record, number_of
from eventbus.testing import wait_until
from eventbus.threads import StopToken


class FakeBus:
    """Takes answers, losses and errors as the bus would, and notes them."""

    def __init__(self, timeout: float = 5.0) -> None:
        mint = IdMint()
        self.origin = mint.origin
        self.numbers = mint.numbers
        self.stop = StopToken()
        self.timeout = timeout
        self.made: list[Record] = []
        self.was_sent: list[Record] = []
        self.was_confirmed: list[tuple[Record, Any, int, bool]] = []
        self.was_failed: list[tuple[Record, Exception]] = []
        self.losses: list[tuple[Any, BaseException]] = []
        self.errors: list[Exception] = []
        self.served: list[Attachment] = []
        self.refusals: list[tuple[Attachment, Exception]] = []

    # -- Answers ---------------------------------------------------------------------------------

    def sent(self, records: Sequence[Record]) -> None:
        self.was_sent += records

    def confirmed(self, record: Record, partition: int | str, offset: int, duplicate: bool = False) -> None:
        self.was_confirmed.append((record, partition, offset, duplicate))

    def returned(self, record: Record, cause: str) -> None:
        pass

    def given(self, record: Record) -> bool:
        return True

    def failed(self, record: Record, error: Exception) -> None:
        self.was_failed.append((record, error))

    def all_confirmed(self, confirmations: Sequence[tuple[Record, Any, int, bool]]) -> None:
        self.was_confirmed += confirmations

    def stored(self, records: Sequence[Record]) -> None:
        raise NotImplementedError

    # -- SessionContext --------------------------------------------------------------------------

    def context(self, name: str = "test") -> SessionContext:
        return SessionContext(
            bus=name,
            timeout=self.timeout,
            stop=self.stop,
            answers=self,
            on_lost=lambda session, cause: self.losses.append((session, cause)),
            on_error=self.errors.append,
            on_served=self.served.extend,
            on_refused=lambda attachment, error: self.refusals.append((attachment, error)),
        )

    # -- publishing ------------------------------------------------------------------------------

    @property
    def answered(self) -> int:
        return len(self.was_sent) + len(self.was_confirmed) + len(self.was_failed)

    def record(
        self,
        topic: str,
        payload: bytes = b"",
        key: str | None = None,
        headers: dict[str, str] | None = None,
        id: str | None = None,
    ) -> Record:
        fields = None if headers is None else tuple((name, value.encode()) for name, value in headers.items())
        extras = Extras(key, fields, id) if key or fields or id else None
        self.made.append(Record(next(self.numbers), topic, payload, extras))
        return self.made[-1]

    @property
    def unanswered(self) -> list[Record]:
        answers = [*self.was_sent, *(one[0] for one in self.was_confirmed), *(one[0] for one in self.was_failed)]
        numbers = {number_of(record) for record in answers}
        return [record for record in self.made if record.number not in numbers]

    def publish_all(self, session: Any, topic: str, count: int, start: int = 0) -> list[Record]:
        """Publish `count` messages with the payloads `start`, `start + 1`, ..."""
        records = [self.record(topic, b"%d" % number) for number in range(start, start + count)]
        session.publisher.publish(records)
        return records


class Inbox:
    """A subscription and what it got. It acknowledges at once unless told not to."""

    def __init__(self, topic: str, group: str | None = "group", start: str = "earliest") -> None:
        self.sub = Subscription(topic, group=group, concurrency=1, start=start)
        self.in_hand = NatsInHand()
        self.attachment: Any = Attachment(self, None)  # type: ignore[arg-type]
        self.got: list[Delivery] = []
        self.acknowledging = True
        self.has_room = True
        self.room, self.room_bytes = 1024, 1 << 30
        self.hindrances: list[Exception] = []
        self.session: Any = None

    def attach(self, session: Any) -> Inbox:
        self.attachment = Attachment(self, session)
        prepared = session.prepare([self.attachment], 5.0)
        if prepared.refused:
            raise prepared.refused[self.attachment]
        assert not prepared.pending
        self.session = session
        session.attach([self.attachment])
        return self

    def flush(self) -> None: ...

    def hold(self) -> bool:
        return False

    def hindered(self, error: Exception, is_news: bool = True) -> None:
        self.hindrances.append(error)

    def take(self, attachment: Attachment, batch: Sequence[Delivery], lease: Lease) -> bool:
        if batch[0].identity is None:
            self.got += batch
            return self.has_room
        admitted = self.in_hand.admit(batch, lease)
        self.got += admitted.fresh
        self.session.acknowledge(self.attachment, admitted.finished)
        if self.acknowledging:
            self.session.acknowledge(self.attachment, self.in_hand.finish(admitted.fresh))
        return self.has_room

    def finish(self, deliveries: Sequence[Delivery]) -> None:
        self.session.acknowledge(self.attachment, self.in_hand.finish(deliveries))

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.payload for delivery in self.got]

    def wait(self, count: int, timeout: float = 10.0) -> list[bytes]:
        wait_until(lambda: len(self.got) >= count, timeout, message=lambda: f"{len(self.got)} of {count}")
        return self.payloads


@contextmanager
def connected(bus: FakeBus, server: Any, **config: Any) -> Iterator[Any]:
    """A session on this server (or these), closed at the end."""
    servers = server if isinstance(server, (tuple, str)) else f"{server.address[0]}:{server.address[1]}"
    session = NatsBackend(NatsConfig(servers=servers, **config)).connect(bus.context())
    try:
        yield session
    finally:
        assert session.close(5.0) == ()


class ScriptedServer:
    """Accepts connections and plays a script on each: `script(conversation)`."""

    def __init__(self, script: Callable[[Conversation], None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._links: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.accepted = 0
        self._threads.append(threading.Thread(target=self._accept, name="scripted-server", daemon=True))

    def __enter__(self) -> ScriptedServer:
        self._threads[0].start()
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5.0)
            assert not thread.is_alive()
        for link in self._links:
            link.close()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._links.append(link)
            thread = threading.Thread(target=self._play, args=(link,), name="scripted-link", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, link: socket.socket) -> None:
        with suppress(OSError, EOFError):
            self._script(Conversation(link))


class Conversation:
    """One connection of a scripted server."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._received = b""

    def send(self, data: bytes) -> None:
        self._link.sendall(data)

    def info(self, **fields: Any) -> None:
        info = {"server_id": "S", "version": "2.15.1", "headers": True, "max_payload": 1048576, **fields}
        self.send(b"INFO " + json.dumps(info).encode() + b"\r\n")

    def expect(self, words: bytes) -> bytes:
        """Read until these have come; EOFError at the end."""
        while words not in self._received:
            data = self._link.recv(65536)
            if not data:
                raise EOFError
            self._received += data
        before, _, self._received = self._received.partition(words)
        return before

    def greet(self, **fields: Any) -> None:
        """The whole handshake."""
        self.info(**fields)
        self.expect(b"PING\r\n")
        self.send(b"PONG\r\n")

    def hang(self) -> None:
        """Read and say nothing until the end."""
        while self._link.recv(65536):
            pass

    def end(self) -> None:
        self._link.shutdown(socket.SHUT_RDWR)
