"""`flask eventbus consume` and `flask eventbus status`."""

from __future__ import annotations

import json
from http import HTTPStatus

import click
from flask.cli import AppGroup

from .. import BROADCAST, EventBus
from ..cli.logs import LEVELS
from ..cli.running import INTERVAL, RunOptions, run
from .flask_app_bus import AppBus, Registered, app_bus
from .health import ready

commands = AppGroup("eventbus", help="Look after the application's event bus.")
"""The group of commands; `init_app` adds it to the application's."""


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="JSON lines on a terminal, too, instead of a live line.")
@click.option(
    "--interval", type=click.FloatRange(min=0, min_open=True), default=INTERVAL, help="Seconds between two reports."
)
@click.option("--log-level", type=click.Choice(LEVELS), default="info", help="What is logged.")
@click.pass_context
def consume(context: click.Context, as_json: bool, interval: float, log_level: str) -> None:
    """Call the handlers until SIGTERM or Ctrl-C.

    The first one has them finish what they have, within close_timeout; a second one leaves at once. While the broker is
    away it is waited for. Exit codes: 0 all was finished, 1 something was left, and is told, 2 there are no handlers.
    """
    own = app_bus()
    if not own.handlers:
        raise click.UsageError("the application has no handlers: register some with @events.on(topic, group=...)")
    options = RunOptions(as_json=as_json, interval=interval, level=log_level, source=own.bus.config)
    context.exit(run(lambda: _with_handlers(own), options))


@commands.command()
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait for the broker (connect_timeout).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@click.pass_context
def status(context: click.Context, timeout: float | None, as_json: bool) -> None:
    """Connect as the application does, and say how that went.

    No handler is called, and no group joined. Exit codes: 0 connected, 1 not.
    """
    own = app_bus()
    own.open(handle=False)
    own.bus.wait_connected(own.bus.config.connect_timeout if timeout is None else timeout)
    report = ready(own.bus)
    own.bus.close()
    told = {**report.body, "handlers": [_told(own, one) for one in own.handlers]}
    del told["subscriptions"]  # those of this process, which has none
    if as_json:
        click.echo(json.dumps(told))
    else:
        for name, value in told.items():
            click.echo(f"{name.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}")
    context.exit(0 if report.status_code == HTTPStatus.OK else 1)


def _with_handlers(own: AppBus) -> EventBus:
    own.open(handle=True)
    return own.bus


def _told(own: AppBus, one: Registered) -> str:
    group = one.options.get("group") or own.bus.config.group
    return f"{one.topic} ({'broadcast' if group in (None, BROADCAST) else f'group {group}'})"
