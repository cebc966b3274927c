"""`flask eventbus consume` and `flask eventbus status`."""

from __future__ import annotations

import json
from http import HTTPStatus

import click
from flask.cli import AppGroup

from .. import BROADCAST, StopSignals
from .flask_app_bus import AppBus, Registered, app_bus
from .health import ready

commands = AppGroup("eventbus", help="Look after the application's event bus.")
"""The group of commands; `init_app` adds it to the application's."""


@commands.command()
@click.pass_context
def consume(context: click.Context) -> None:
    """Call the handlers until SIGTERM or Ctrl-C.

    The first one has the handlers finish what they have, within close_timeout; a second one leaves at once. While the
    broker is away it is waited for. Exit codes: 0 all was finished, 1 something was left, 2 there are no handlers.
    """
    own = app_bus()
    if not own.handlers:
        raise click.UsageError("the application has no handlers: register some with @events.on(topic, group=...)")
    with StopSignals() as caught:
        own.open(handle=True)
        for sub in own.bus.get_subscriptions():
            click.echo(f"handles {sub.topic} in {'broadcast' if sub.group is None else f'group {sub.group}'}", err=True)
        report = own.bus.wait(caught)
    click.echo(f"closed: {report}", err=True)
    context.exit(1 if report.unanswered or report.unhandled or report.unfinished_threads else 0)


@commands.command()
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait for the broker (connect_timeout).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@click.pass_context
def status(context: click.Context, timeout: float | None, as_json: bool) -> None:
    """Connect as the application would, and say how that went.

    No handler is called, and no group joined. Exit codes: 0 connected, 1 not.
    """
    own = app_bus()
    own.open(handle=False)
    own.bus.wait_connected(own.bus.config.connect_timeout if timeout is None else timeout)
    report = ready(own.bus)
    own.end_with_process()
    told = {**report.body, "handlers": [_told(own, one) for one in own.handlers]}
    del told["subscriptions"]  # of this process, which has none
    if as_json:
        click.echo(json.dumps(told))
    else:
        for name, value in told.items():
            click.echo(f"{name.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}")
    context.exit(0 if report.status_code == HTTPStatus.OK else 1)


def _told(own: AppBus, one: Registered) -> str:
    group = one.options.get("group") or own.bus.config.group
    return f"{one.topic} ({'broadcast' if group in (None, BROADCAST) else f'group {group}'})"
