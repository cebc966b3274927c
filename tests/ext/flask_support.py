"""What the tests of Flask share: applications whose buses are closed at the end of a test."""

from __future__ import annotations

import os
from contextlib import ExitStack
from itertools import count
from typing import Any

import pytest

pytest.importorskip("flask")

from flask import Flask

from eventbus import EventBus
from eventbus.ext.flask import FlaskEventBus, app_bus, health

_serials = count(1)


def fresh(word: str) -> str:
    """A name that no other test of this process has."""
    return f"{word}-{os.getpid()}-{next(_serials)}"


class Apps:
    """Makes applications within a `with` block, and closes their buses at its end."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Apps:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def make(self, events: FlaskEventBus | None = None, *, url: str | None = None, **config: Any) -> Flask:
        """An application with the health checks, `POST /orders/<number>`, and `EVENTBUS_<config>`."""
        app = Flask(fresh("shop"))
        app.config["EVENTBUS_URL"] = url or f"memory://{fresh('flask')}"
        app.config.update({f"EVENTBUS_{name}": value for name, value in config.items()})
        events = events or FlaskEventBus()
        events.init_app(app)
        self._stack.callback(bus_of(app).close, 5.0)
        app.register_blueprint(health)

        @app.post("/orders/<int:number>")
        def order(number: int) -> dict[str, Any]:
            receipt = events.bus.publish("orders.new", {"number": number}, key=str(number))
            return {"id": receipt.id, "confirmed": receipt.confirmed}

        return app


def bus_of(app: Flask) -> EventBus:
    """The bus of an application as it stands; asking for it opens nothing."""
    return app_bus(app).bus
