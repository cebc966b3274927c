"""A server that was given a backup: its streams give sequences again that messages had which it knows no more."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from rounds import limit
from world_support import Seen

from eventbus import BROADCAST, EventBus
from eventbus.testing import NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(60.0))]

KINDS = {"shared": {"group": "g"}, "ordered": {"group": "h", "ordered": True}, "broadcast": {"group": BROADCAST}}


class Backups:
    """A server and a copy of its store."""

    def __init__(self, folder: Path) -> None:
        self._store, self._copy = folder / "store", folder / "copy"
        self.server = NatsServer(store_dir=self._store)

    def make(self) -> None:
        self.server.stop()
        shutil.copytree(self._store, self._copy)
        self.server.start()

    def restore(self) -> None:
        self.server.kill()
        shutil.rmtree(self._store)
        shutil.copytree(self._copy, self._store)
        self.server.start()


@pytest.fixture
def backups(tmp_path: Path) -> Iterator[Backups]:
    made = Backups(tmp_path)
    with made.server:
        yield made


@pytest.mark.parametrize("knows_consumers", [True, False])
def test_what_comes_behind_a_backup_is_handled(backups: Backups, knows_consumers: bool) -> None:
    """knows_consumers: they are in it."""
    seen = {kind: Seen() for kind in KINDS}
    with EventBus(backups.server.url) as bus:

        def publish(first: int, last: int) -> None:
            payloads = [b"%d" % number for number in range(first, last)]
            for payload in payloads:
                assert bus.publish("orders.x", payload).confirmed
            wait_until(
                lambda: all({*payloads} <= {*one.payloads} for one in seen.values()),
                10.0,
                message=lambda: f"{ {kind: sorted({*payloads} - {*one.payloads}) for kind, one in seen.items()} }",
            )

        bus.publish("orders.x", b"0")
        if not knows_consumers:
            backups.make()
        for kind, settings in KINDS.items():
            bus.subscribe("orders.x", seen[kind], **settings)  # type: ignore[arg-type]
        publish(1, 10)
        if knows_consumers:
            backups.make()
        publish(10, 20)
        backups.restore()
        publish(20, 50)
