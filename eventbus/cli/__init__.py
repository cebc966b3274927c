"""The command line: `eventbus consume`, `status` and `dlq`, or `python -m eventbus`.

Exit codes: 0, done; 1, it failed or only part of it was done; 2, bad arguments or configuration; 130, interrupted (143
where SIGTERM ended `consume` before it had begun).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .. import ConfigError, EventBusError
from . import consume, dlq, status
from .output import NotPrinted, Output, flush_printed, hidden

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    made = argparse.ArgumentParser(
        prog="eventbus",
        description="Look after an event bus.",
        epilog="Exit codes: 0 done, 1 failed or done in part, 2 bad arguments or configuration, 130 interrupted.",
    )
    areas = made.add_subparsers(dest="area", required=True, metavar="AREA")
    for area in (consume, status, dlq):
        area.add_to(areas)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say (None: those of the process); the exit code."""
    try:
        options = parser().parse_args(argv)
    except SystemExit as end:  # argparse has told what is wrong, or has helped
        return int(end.code or 0)
    return carry_out(options)


def carry_out(options: argparse.Namespace) -> int:
    """Do what was asked for, and tell on stderr what goes wrong; the exit code."""
    output = Output(as_json=options.json)
    try:
        return int(options.run(options, output))
    except KeyboardInterrupt:
        output.note("interrupted")
        return INTERRUPTED
    except ConfigError as error:
        output.note(f"eventbus: {hidden(str(error), options.url)}")
        return USAGE
    except EventBusError as error:
        output.note(f"eventbus: {hidden(str(error), options.url)}")
        return FAILED
    except (NotPrinted, BrokenPipeError) as error:
        if not isinstance(error.__cause__ or error, BrokenPipeError):  # else whoever read it has enough
            output.note(f"eventbus: {error}")
        flush_printed()
        return FAILED
