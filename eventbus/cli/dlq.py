"""`eventbus dlq`: dead letters are listed, shown, published again and deleted."""

from __future__ import annotations

import argparse
import sys
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from .. import EventBus, Message, ReplayError, ReplayReport
from ..config_sources import ConfigSource
from .output import Output, Row, add_broker, hidden, positive_seconds

DEAD = "Eventbus-Dead-"
SHOWN = 100
"""Dead letters that are shown where no limit is given."""
COLUMNS = ("id", "time", "topic", "key", "attempts", "error", "reason")


def add_to(areas: Any) -> None:
    """Add the area to the command line."""
    for verb in add_verbs(areas.add_parser("dlq", help="dead letters: messages that no handler took")):
        add_broker(verb)


def add_verbs(area: argparse.ArgumentParser) -> tuple[argparse.ArgumentParser, ...]:
    """Add `list`, `show`, `replay` and `purge`, and return them; `url`, any source of settings, is for the caller."""
    verbs = area.add_subparsers(dest="verb", required=True, metavar="VERB")
    listed = _verb(verbs, "list", "the topics of dead letters, with how many each holds", show_topics)
    shown = _verb(verbs, "show", "the dead letters of a topic", show_letters, topic=True)
    shown.add_argument("--limit", type=_count, default=SHOWN, help=f"so many at most ({SHOWN})")
    shown.add_argument("--payload", action="store_true", help="with the payload")
    replayed = _verb(verbs, "replay", "publish dead letters again where they came from", replay, topic=True)
    replayed.add_argument("--limit", type=_count, help="so many at most")
    replayed.add_argument(
        "--start",
        type=_place,
        nargs="+",
        metavar="PARTITION:OFFSET",
        help="go on where an earlier replay ended, which has told it",
    )
    replayed.add_argument("--dry-run", action="store_true", help="say which, and publish nothing")
    for one in (shown, replayed):
        one.add_argument("--id", nargs="+", metavar="ID", help="only these messages")
        one.add_argument("--reason", nargs="+", metavar="TEXT", help="only with one of these in error or reason")
    purged = _verb(verbs, "purge", "delete all dead letters of a topic, for good", purge, topic=True)
    purged.add_argument("--yes", action="store_true", help="do it; without, it is only told what would be deleted")
    purged.add_argument("--force", action="store_true", help="also where other messages are among them")
    return listed, shown, replayed, purged


def show_topics(options: argparse.Namespace, output: Output) -> int:
    """List the topics; 0."""
    with _open(options) as bus:
        rows = [
            {"topic": one.topic, "messages": one.messages, "oldest": one.oldest, "newest": one.newest}
            for one in bus.list_dead_letters(timeout=options.timeout)
        ]
    output.rows(rows, ("topic", "messages", "oldest", "newest"))
    return 0


def show_letters(options: argparse.Namespace, output: Output) -> int:
    """Show the dead letters of a topic; 1 where it holds nothing, for nobody knows whether its name is right."""
    with _open(options) as bus:
        rows, seen = _letters(bus, options, output)
    output.rows(rows, (*COLUMNS, "payload") if options.payload else COLUMNS)
    return 0 if seen else 1


def replay(options: argparse.Namespace, output: Output) -> int:
    """Publish dead letters again; 1 where not all of them were stored."""
    if options.dry_run:
        with _open(options) as bus:
            rows, _ = _letters(bus, options, output)
        output.rows(rows, COLUMNS)
        output.note(f"{len(rows)} would be replayed; nothing was published")
        return 0
    latest = ReplayReport()

    def progress(report: ReplayReport) -> None:
        nonlocal latest
        latest = report
        output.progress(f"{report.replayed} replayed ...")

    trouble: ReplayError | None = None
    with _open(options) as bus:
        try:
            bus.replay_dead_letters(
                options.topic,
                start=dict(options.start) if options.start else "earliest",
                limit=options.limit,
                filter=_chosen(options),
                timeout=options.timeout,
                progress=progress,
            )
        except ReplayError as error:
            trouble = error
        except KeyboardInterrupt:
            _tell(latest, output, options.url)
            raise
    _tell(latest, output, options.url)
    if latest == ReplayReport() and trouble is None and not options.start and options.limit != 0:
        _note_nothing(options, output)
    if trouble is not None:
        output.note(f"eventbus: {hidden(str(trouble), options.url)}")
    return 1 if trouble is not None or latest.failed else 0


def purge(options: argparse.Namespace, output: Output) -> int:
    """Delete the dead letters of a topic; 2 without --yes."""
    with _open(options) as bus:
        if not options.yes:
            output.note(f"all that {options.topic} holds would be deleted for good: say --yes to do it")
            return 2
        purged = bus.purge_dead_letters(options.topic, force=options.force, timeout=options.timeout)
    output.summary({"topic": options.topic, "purged": purged}, f"{purged} deleted from {options.topic}")
    if not purged:
        _note_nothing(options, output)
    return 0


def _verb(
    verbs: Any, name: str, text: str, run: Callable[[argparse.Namespace, Output], int], topic: bool = False
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    made.set_defaults(run=run)
    if topic:
        made.add_argument("topic", metavar="TOPIC", help="a topic of dead letters, dlq.<group>.<topic>")
    made.add_argument("--timeout", type=positive_seconds, help="seconds to wait for the broker")
    made.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    return made


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return min(int(text), sys.maxsize)


def _place(text: str) -> tuple[int | str, int]:
    partition, _, offset = text.rpartition(":")
    if not partition or not offset.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no PARTITION:OFFSET, as 0:120")
    return int(partition) if partition.isdecimal() else partition, int(offset)


def _open(options: argparse.Namespace) -> EventBus:
    """A bus that is opened on entering it, and closed on leaving."""
    return EventBus(options.url)


def _letters(bus: EventBus, options: argparse.Namespace, output: Output) -> tuple[list[Row], int]:
    """The dead letters that are wanted, and how many messages were looked at for them."""
    wanted, seen = _chosen(options), 0
    rows: list[Row] = []
    with bus.read(options.topic, timeout=options.timeout) as messages:
        for seen, message in enumerate(messages, 1):
            output.progress(f"{seen} read ...")
            if len(rows) == options.limit:
                break
            if DEAD + "Topic" in message.headers and wanted(message):
                rows.append(_row(message))
    if not seen:
        _note_nothing(options, output)
    return rows, seen


def _note_nothing(options: argparse.Namespace, output: Output) -> None:
    """Of a topic without messages JetStream cannot say whether it is there: its stream takes any of that kind."""
    output.note(f"{options.topic} holds nothing, or is not there: `dlq list` names those that hold something")


def _chosen(options: argparse.Namespace) -> Callable[[Message], bool]:
    ids = None if options.id is None else set(options.id)
    texts = None if options.reason is None else [text.casefold() for text in options.reason]

    def wanted(message: Message) -> bool:
        why = "{}\n{}".format(*(message.headers.get(DEAD + name, "") for name in ("Error", "Reason"))).casefold()
        return (ids is None or message.id in ids) and (texts is None or any(text in why for text in texts))

    return wanted


def _row(message: Message) -> Row:
    told = {name.lower(): message.headers.get(DEAD + name) for name in ("Time", "Topic", "Attempts", "Error", "Reason")}
    try:
        payload = None if message.is_tombstone else message.text()
    except UnicodeDecodeError:
        payload = f"base64:{b64encode(message.payload).decode()}"
    return {"id": message.id, "key": message.key, "payload": payload, **told}


def _tell(report: ReplayReport, output: Output, url: ConfigSource) -> None:
    for cause in report.causes:
        output.note(f"failed: {hidden(str(cause), url)}")
    names = ("replayed", "duplicates", "skipped", "foreign", "failed", "unanswered")
    counts = {name: getattr(report, name) for name in names}
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    output.summary({**counts, "next": dict(report.next)}, text)
    if report.unanswered:
        output.note(f"{report.unanswered} may be stored, or be stored yet; going on from here publishes them once more")
    if report.next:
        output.note("to go on behind it: --start " + " ".join(f"{one}:{offset}" for one, offset in report.next.items()))
