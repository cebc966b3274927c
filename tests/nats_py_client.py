"""nats-py, the other program: its event loop on a thread of its own, its calls blocking."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext


class NatsPy:
    """One connection of nats-py. got: what its subscriptions were given."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats-py")
        self._thread.start()
        self.got: list[Msg] = []
        self.client: Client = self.run(nats.connect(url, allow_reconnect=False))
        self.jetstream: JetStreamContext = self.client.jetstream()

    def __enter__(self) -> NatsPy:
        return self

    def __exit__(self, *raised: object) -> None:
        self.run(self.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Its result, from the loop's thread."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(20.0)

    def publish(self, subject: str, payload: bytes, headers: dict[str, str] | None = None, reply: str = "") -> None:
        """Core NATS; the server has read it when this returns."""
        self.run(self.client.publish(subject, payload, reply=reply, headers=headers))
        self.run(self.client.flush())

    def subscribe(self, subject: str, queue: str = "") -> None:
        """Core NATS: what comes is in `got`."""

        async def take(message: Msg) -> None:
            self.got.append(message)

        self.run(self.client.subscribe(subject, queue=queue, cb=take))
        self.run(self.client.flush())

    def take(self, stream: str, durable: str, count: int) -> list[Msg]:
        """Pull so many messages of a durable, about, and acknowledge them; none within 0.2 s: []."""

        async def pull() -> list[Msg]:
            bound = await self.jetstream.pull_subscribe_bind(durable, stream=stream)
            try:
                messages = await bound.fetch(count, timeout=0.2)
            except nats.errors.TimeoutError:
                messages = []
            for message in messages:
                await message.ack_sync(timeout=10.0)
            await bound.unsubscribe()
            return list(messages)

        taken: list[Msg] = self.run(pull())
        return taken
