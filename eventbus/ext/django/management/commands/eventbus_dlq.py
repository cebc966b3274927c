"""`manage.py eventbus_dlq`: `eventbus dlq` with the settings of the project."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from .....cli import carry_out
from .....cli.dlq import add_verbs
from ...access import config_source


class Command(BaseCommand):  # type: ignore[misc]
    """List, show, replay or purge dead letters."""

    help = (
        "Look after dead letters: messages that no handler took. "
        "Exit codes: 0 done, 1 failed or done in part, 2 bad arguments or settings, 130 interrupted."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add `list`, `show`, `replay` and `purge`, as `eventbus dlq` has them, but for `--url`."""
        for verb in add_verbs(parser):
            verb.set_defaults(url=config_source())

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it, and exit with a code that says how it went."""
        code = carry_out(argparse.Namespace(**options))
        if code:
            raise SystemExit(code)
