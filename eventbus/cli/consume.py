"""`eventbus consume`: a worker process for one function, or for all the subscriptions of a bus."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Any

from .. import ConfigError, EventBus, SubscribeError, UnsupportedError
from .output import Output, add_broker, positive_seconds
from .running import RunOptions, add_run_options, run
from .targets import find

EPILOG = """
SIGTERM and SIGINT drain: no more is fetched, handlers finish what they have, and it is acknowledged; a second one
leaves at once. Exit codes: 0 what was begun is finished, and the rest goes to others; 1 something was left, and is
told; 2 bad arguments or configuration; 130 and 143 a signal came before the program was loaded.
"""
HANDLERS = ("group", "concurrency", "batch", "ordered", "start", "handler_timeout", "dead_letter")
"""Options that are of no use for a bus, which has its subscriptions."""


def add_to(areas: Any) -> None:
    """Add the area to the command line."""
    what = "call a function for each message, until SIGTERM"
    made = areas.add_parser("consume", help=what, description=what, epilog=EPILOG)
    made.set_defaults(run=consume)
    made.add_argument("target", metavar="MODULE:FUNCTION", help="the handler, or MODULE:BUS with its own subscriptions")
    add_broker(made)
    made.add_argument("--topic", action="append", help="a topic or pattern; several times for several of them")
    made.add_argument(
        "--group", help="share the messages with other processes; without one each gets a copy of its own"
    )
    made.add_argument("--concurrency", type=int, help="handlers that run at once (1)")
    made.add_argument("--batch", nargs=2, metavar=("N", "SECONDS"), help="batches of up to N messages")
    made.add_argument("--ordered", action="store_true", default=None, help="keep the order of each key in the group")
    made.add_argument("--start", type=_start, help="where a new group begins: earliest, latest, or an ISO 8601 time")
    made.add_argument(
        "--handler-timeout", type=positive_seconds, metavar="SECONDS", help="report a handler that runs for longer"
    )
    letters = made.add_mutually_exclusive_group()
    letters.add_argument("--dead-letter", metavar="TOPIC", help="where dead letters go (dlq.<group>.<topic>)")
    letters.add_argument("--no-dead-letter", action="store_true", help="try a message without end instead")
    made.add_argument("--close-timeout", type=positive_seconds, metavar="SECONDS", help="time to drain in (10)")
    add_run_options(made)


def consume(options: argparse.Namespace, output: Output) -> int:
    """Consume until a signal; 1 where something was left unfinished."""
    told = RunOptions(
        as_json=options.json,
        interval=options.interval,
        level=options.log_level,
        reload=options.reload,
        source=options.url,
    )
    return run(lambda: _bus_for(options), told)


def _bus_for(options: argparse.Namespace) -> EventBus:
    target = find(options.target)
    if isinstance(target, EventBus):
        given = [name for name in ("url", "topic", "close_timeout", *HANDLERS) if getattr(options, name) is not None]
        if given or options.no_dead_letter:
            name = (given or ["no_dead_letter"])[0].replace("_", "-")
            raise ConfigError(f"--{name}: {options.target} is a bus, which has its own settings and subscriptions")
        return target
    if not options.topic:
        raise ConfigError("--topic is missing: name a topic or pattern, several times for several of them")
    bus = EventBus(_source(options))
    for topic in options.topic:
        try:
            bus.subscribe(topic, target, **_subscription(options))
        except (SubscribeError, UnsupportedError) as error:
            raise ConfigError(f"{options.target}: {error}") from error
    return bus


def _source(options: argparse.Namespace) -> Any:
    if options.close_timeout is None:
        return options.url
    return {"url": options.url, "close_timeout": options.close_timeout}


def _subscription(options: argparse.Namespace) -> dict[str, Any]:
    given = {name: value for name in HANDLERS if (value := getattr(options, name)) is not None}
    if options.no_dead_letter:
        given["dead_letter"] = None
    if options.batch is not None:
        try:
            given["batch"] = int(options.batch[0]), float(options.batch[1])
        except ValueError:
            raise ConfigError(f"--batch takes a number of messages and of seconds, not {options.batch}") from None
    return given


def _start(text: str) -> str | datetime:
    if text in ("earliest", "latest"):
        return text
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"neither earliest nor latest nor a time as 2026-01-31T12:00: {text!r}"
        ) from None
    return time.astimezone()  # a time without a zone is meant as the clock on the wall shows it
