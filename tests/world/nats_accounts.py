"""Servers with users who may do little, and buses of theirs. Passwords are "pw"."""

from __future__ import annotations

import json
from typing import Any

from eventbus import EventBus
from eventbus.testing import NatsServer

READS_INBOX = {"subscribe": {"allow": ["_INBOX.>"]}}
PUBLISHER = {"publish": {"allow": ["orders.>"]}, **READS_INBOX}


def users(**permissions: dict[str, Any]) -> str:
    """The configuration of a server with the user `admin` and one more for each argument."""
    others = [{"user": name, "password": "pw", "permissions": rules} for name, rules in permissions.items()]
    return f"authorization {{ users: {json.dumps([{'user': 'admin', 'password': 'pw'}, *others])} }}"


def bus_of(server: NatsServer, user: str, **settings: object) -> EventBus:
    return EventBus({"url": f"nats://{user}:pw@{server.address[0]}:{server.address[1]}", **settings})
