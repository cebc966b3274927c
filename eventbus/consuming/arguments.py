"""What a user passed to `subscribe`."""

from __future__ import annotations

from attrs import frozen

from ..callables import check_plain
from .subscriptions import Handler

MOST_LANES = 1000
"""The highest `concurrency`: each lane is a thread."""


@frozen(kw_only=True)
class Checked:
    """Those that need no backend to be judged."""

    handler: Handler
    concurrency: int
    start: str
    ordered: bool = False


@frozen(kw_only=True)
class Arguments:
    """As given, under the names and defaults of `EventBus.subscribe`."""

    topic: object
    handler: object
    group: object = None
    concurrency: object = 1
    start: object = "earliest"
    ordered: object = False

    def check(self) -> Checked:
        """Judge what needs no backend; ValueError says what is wrong."""
        check_plain(self.handler, "handler")
        assert callable(self.handler)
        concurrency = self.concurrency
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or not 1 <= concurrency <= MOST_LANES:
            raise ValueError(f"concurrency must be an int from 1 to {MOST_LANES}, not {concurrency!r}")
        if self.start not in ("earliest", "latest"):
            raise ValueError(f"start must be 'earliest' or 'latest', not {self.start!r}")
        if not isinstance(self.ordered, bool):
            raise ValueError(f"ordered must be True or False, not {self.ordered!r}")
        return Checked(handler=self.handler, concurrency=concurrency, start=str(self.start), ordered=self.ordered)
