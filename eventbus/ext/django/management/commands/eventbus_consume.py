"""`manage.py eventbus_consume`: a process that runs the handlers under `@subscriber`."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ..... import EventBus, EventBusError, load_config
from .....cli.running import RunOptions, add_run_options, run
from ...access import config_source, get_bus_with
from ...subscribers import Subscriber, subscribers


class Command(BaseCommand):  # type: ignore[misc]
    """Consume until SIGTERM or SIGINT, which drain: handlers finish what they have. A second one leaves at once."""

    help = (
        "Run the handlers under @subscriber in the events.py of all apps, until SIGTERM or SIGINT: then no more is "
        "fetched, and handlers finish what they have. A second signal leaves at once. "
        "Exit codes: 0 everything was finished, 1 something was left, and is told."
    )
    requires_system_checks: ClassVar[list[str]] = []
    """They are made where --reload waits for a change after they have failed."""

    def add_arguments(self, parser: CommandParser) -> None:
        """`--topics`, `--group`, and how to tell what is done."""
        parser.add_argument("--topics", nargs="+", metavar="TOPIC", help="only the subscribers of these, as they stand")
        parser.add_argument("--group", nargs="+", metavar="GROUP", help="only the subscribers in these groups")
        add_run_options(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Consume, and exit with the code that says whether something was left."""

        def make() -> EventBus:
            self.check()
            return _subscribed(_chosen(subscribers(), options["topics"], options["group"]))

        told = RunOptions(
            as_json=options["json"],
            interval=options["interval"],
            level=options["log_level"],
            reload=options["reload"],
            source=config_source(),
        )
        code = run(make, told)
        if code:
            raise SystemExit(code)


def _subscribed(chosen: Iterable[Subscriber]) -> EventBus:
    def subscribe(bus: EventBus) -> None:
        for one in chosen:
            try:
                one.subscribe(bus)
            except EventBusError as error:
                raise CommandError(f"{one.name}: {error}") from error

    return get_bus_with(subscribe)


def _chosen(
    found: tuple[Subscriber, ...], topics: list[str] | None, groups: list[str] | None
) -> tuple[Subscriber, ...]:
    """The subscribers that are wanted; CommandError where a topic or a group has none."""
    default = load_config(config_source()).group

    def group_of(one: Subscriber) -> str | None:
        group: str | None = one.options.get("group") or default
        return group

    _check_known("topic", topics, {one.topic for one in found})
    _check_known("group", groups, {group for one in found if isinstance(group := group_of(one), str)})
    chosen = tuple(
        one for one in found if (topics is None or one.topic in topics) and (groups is None or group_of(one) in groups)
    )
    if not chosen:
        raise CommandError(
            "there is nothing to consume: "
            + ("no subscriber is both" if found else "put @subscriber functions into the events.py of an app")
        )
    return chosen


def _check_known(what: str, wanted: list[str] | None, known: set[str]) -> None:
    for one in wanted or ():
        if one not in known:
            near = get_close_matches(one, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
            raise CommandError(f"no subscriber has the {what} {one!r}; {hint}")
