"""The outage verbs on a real nats-server, with a TcpProxy in front of it."""

from __future__ import annotations

import itertools
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

from drivers import Driver
from outages_base import GROUP

from eventbus import EventBus, EventBusConfig, NatsConfig, Subscription
from eventbus.backends.nats.core.publisher import CorePublisher
from eventbus.backends.nats.core.session import NatsSession
from eventbus.backends.nats.jetstream.durables import durable_name
from eventbus.backends.nats.jetstream.publisher import JetStreamPublisher
from eventbus.backends.nats.jetstream.session import JetStreamSession
from eventbus.testing import NatsServer, TcpProxy, wait_until
from eventbus.testing.outages import ServerOutages, not_applicable

USER = "tester"
PASSWORD = "s3cret pass/word"


class NatsDriver(ServerOutages, Driver):
    """One nats-server for each driver: core NATS, or JetStream."""

    def __init__(self, *, jetstream: bool) -> None:
        self.backend = "jetstream" if jetstream else "nats-core"
        self._jetstream = jetstream
        self._password = PASSWORD
        self._denied: set[str] = set()
        self._directory = tempfile.TemporaryDirectory(prefix="eventbus-outages-")
        self._store = Path(self._directory.name)
        self._server = NatsServer(config=self._authorization(), store_dir=self._store)
        self._server.start()
        self._proxy = TcpProxy(*self._server.address).start()
        super().__init__(self._server, self._proxy)
        self._logins_ended = 0
        self._patches = ExitStack()

    def backend_config(self, password: str = PASSWORD) -> NatsConfig:
        host, port = self._proxy.address
        return NatsConfig(
            servers=(f"{host}:{port}",), user=USER, password=password, jetstream=self._jetstream, ack_wait=2.0
        )

    def close(self) -> None:
        self._patches.close()
        self._proxy.stop()
        self._server.close()
        self._directory.cleanup()

    def slow(self, seconds: float) -> None:
        self._proxy.delay(seconds)

    def refuse_topic(self, topic: str) -> None:
        self._denied.add(topic)
        self._reconfigure()

    def allow_topic(self, topic: str) -> None:
        self._denied.discard(topic)
        self._reconfigure()

    def restore_broken(self, step: str) -> None:
        owner: Any = JetStreamSession if self._jetstream else NatsSession
        if step == "publish":
            owner = JetStreamPublisher if self._jetstream else CorePublisher
        original, proxy, left = getattr(owner, step), self._proxy, itertools.chain([True], itertools.repeat(False))

        def broken(subject: Any, *args: Any) -> Any:
            if next(left):
                proxy.cut()
                self._wait_cut(subject)
            return original(subject, *args)

        self._patches.enter_context(mock.patch.object(owner, step, broken))
        self.restore()

    def wrong_password(self) -> EventBusConfig:
        return self.config(backend=self.backend_config("wrong"))

    def change_password(self) -> None:
        self._password = "another"
        before = self.logins()
        links = self.links()
        self._reconfigure()
        wait_until(lambda: self.logins() > before)
        self._logins_ended += links

    def change_password_back(self) -> None:
        self._password = PASSWORD
        self._reconfigure()

    def logins(self) -> int:
        # The links that a change of the password ends are none.
        return self._server.log().count("authentication error") - self._logins_ended

    def links(self) -> int:
        # As the clients' side of the kernel has them: a muted link stays in the proxy whatever its client does.
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        port = f":{self._proxy.port:04X}"
        return sum(remote.endswith(port) and state == "01" for _, _, remote, state, *_ in rows)

    def known_of(self, bus: EventBus) -> object:
        links = self._server.monitor("connz?subs=detail")["connections"]
        assert [link["lang"] for link in links] == ["python"] * len(links)
        if not self._jetstream:
            bus.publish("sync.up", "")  # its answer comes when the server has read all that went before
            links = self._server.monitor("connz?subs=detail")["connections"]
            subs = [sub for link in links for sub in link["subscriptions_list_detail"]]
            return sorted((s["subject"], s.get("qgroup", "")) for s in subs if not s["subject"].startswith("_INBOX"))
        return sorted(json.dumps(one["config"], sort_keys=True) for one in self._consumers())

    def unacknowledged(self, sub: Subscription) -> int:
        if not self._jetstream or sub.group is None:
            return 0
        name = durable_name(sub.group, sub.topic)
        return sum(
            one["num_ack_pending"] + (not self._is_on_disk(one)) for one in self._consumers() if one["name"] == name
        )

    def _is_on_disk(self, consumer: dict[str, Any]) -> bool:
        """Whether the acknowledgements survive kill -9: the server writes them up to 0.1 s later."""
        place = ("jetstream", "$G", "streams", consumer["stream_name"], "obs", consumer["name"], "o.dat")
        try:
            state = self._store.joinpath(*place).read_bytes()
        except FileNotFoundError:
            return not consumer["ack_floor"]["stream_seq"]
        _, rest = _varint(state[2:])  # behind magic and version: the floor's place in the consumer, then in the stream
        return _varint(rest)[0] >= consumer["ack_floor"]["stream_seq"]

    def _consumers(self) -> list[dict[str, Any]]:
        accounts = self._server.monitor("jsz?consumers=1&config=1").get("account_details") or []
        streams = [stream for account in accounts for stream in account.get("stream_detail") or []]
        return [consumer for stream in streams for consumer in stream.get("consumer_detail") or []]

    def _reconfigure(self) -> None:
        if self._frozen:
            not_applicable("a frozen server reads no configuration")
        self._server.reload(config=self._authorization())

    def _authorization(self) -> str:
        permissions: dict[str, Any] = {}
        if self._denied:
            if self._jetstream:
                # Without the last two it goes on with the durable that is there.
                denied = [f"$JS.API.CONSUMER.CREATE.*.*.{topic}" for topic in self._denied]
                for name in (durable_name(GROUP, topic) for topic in self._denied):
                    denied += [f"$JS.API.CONSUMER.INFO.*.{name}", f"$JS.API.CONSUMER.MSG.NEXT.*.{name}"]
                permissions["publish"] = {"deny": denied}
            else:
                permissions["subscribe"] = {"deny": sorted(self._denied)}
        user = {"user": USER, "password": self._password, "permissions": permissions}
        return f"authorization {{ users = [ {json.dumps(user)} ] }}\n"

    @staticmethod
    def _wait_cut(subject: Any) -> None:
        """Go on only when the link's own thread has seen its end."""
        connection = getattr(subject, "_connection", None)
        if connection is not None:
            wait_until(lambda: connection.lost is not None)
        else:
            wait_until(lambda: subject._retired)


def _varint(data: bytes) -> tuple[int, bytes]:
    value = 0
    for position, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, data[position + 1 :]
    raise ValueError("a number has no end")
