"""A shop in Flask: a view publishes orders, a handler bills them."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from flask import Flask, current_app, request

from eventbus import Message
from eventbus.ext.flask import FlaskEventBus, health

events = FlaskEventBus()


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """A connection to the application's database; what is done with it is committed, or taken back."""
    with closing(sqlite3.connect(current_app.config["SHOP_DATABASE"], timeout=10)) as connection, connection:
        yield connection


@events.on("orders.*", group="billing", concurrency=2)
def bill(message: Message) -> None:
    """Bill an order; messages may come again, and the same one is billed once."""
    with database() as db:
        db.execute("INSERT OR IGNORE INTO bills VALUES (?, ?)", (message.id, message.json()["total"]))


def create_app() -> Flask:
    """The application."""
    app = Flask(__name__)
    app.config["EVENTBUS_URL"] = os.environ.get("EVENTBUS_URL", "nats://127.0.0.1:4222")
    app.config["EVENTBUS_PUBLISH_TIMEOUT"] = 3.0  # a request that waits for the broker holds a thread
    app.config["SHOP_DATABASE"] = os.environ.get("SHOP_DATABASE", "shop.sqlite")
    events.init_app(app)
    app.register_blueprint(health)
    with app.app_context(), database() as db:
        db.execute("CREATE TABLE IF NOT EXISTS bills (message TEXT PRIMARY KEY, total REAL)")

    @app.post("/orders")
    def order() -> tuple[dict[str, Any], int]:
        wanted = request.get_json()
        receipt = events.bus.publish("orders.new", {"total": float(wanted["total"])}, key=wanted["customer"])
        return {"id": receipt.id}, 201  # stored: it will be billed; else Flask has answered 503

    @app.get("/bills")
    def bills() -> list[dict[str, Any]]:
        with database() as db:
            return [{"id": id, "total": total} for id, total in db.execute("SELECT * FROM bills")]

    return app
