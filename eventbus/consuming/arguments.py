"""What a user passed to `subscribe`."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen

from ..callables import check_plain
from ..config_delivery import RetryConfig
from ..errors import LONGEST_WAIT
from .batch_lane import BatchLimits
from .excerpts import aware
from .subscriptions import Handler

MOST_LANES = 1000
"""The highest `concurrency`: each lane is a thread."""


@frozen(kw_only=True)
class Checked:
    """The arguments of `subscribe` that need no backend to be judged, judged."""

    handler: Handler
    concurrency: int
    start: str | datetime
    ordered: bool
    retry: RetryConfig | None
    handler_timeout: float | None
    batch: BatchLimits | None
    in_children: bool


@frozen
class Arguments:
    """What was passed to `subscribe`, unchecked: under the names and defaults of it, and in their order."""

    topic: object
    handler: object
    group: object = None
    concurrency: object = 1
    start: object = "earliest"
    ordered: object = False
    retry: object = None
    dead_letter: object = ...
    handler_timeout: object = None
    batch: object = None
    in_children: object = False

    def check(self) -> Checked:
        """Judge what needs no backend; ValueError says what is wrong."""
        check_plain(self.handler, "handler", takes=1)
        assert callable(self.handler)
        concurrency = self.concurrency
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or not 1 <= concurrency <= MOST_LANES:
            raise ValueError(f"concurrency must be an int from 1 to {MOST_LANES}, not {concurrency!r}")
        if self.retry is not None and not isinstance(self.retry, RetryConfig):
            raise ValueError(f"retry must be a RetryConfig, not {self.retry!r}")
        for name, given in (("ordered", self.ordered), ("in_children", self.in_children)):
            if not isinstance(given, bool):
                raise ValueError(f"{name} must be True or False, not {given!r}")
        return Checked(
            handler=self.handler,
            concurrency=concurrency,
            start=_start(self.start),
            ordered=bool(self.ordered),
            retry=self.retry,
            handler_timeout=self._seconds(self.handler_timeout),
            batch=_batch(self.batch),
            in_children=bool(self.in_children),
        )

    @staticmethod
    def _seconds(given: object) -> float | None:
        if given is None:
            return None
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < float("inf"):
            raise ValueError(f"handler_timeout must be a number of seconds, more than 0, not {given!r}")
        return float(given)


def _start(start: object) -> str | datetime:
    if isinstance(start, datetime):
        return aware(start, "start")
    if start not in ("earliest", "latest"):
        raise ValueError(f"start must be 'earliest', 'latest' or an aware datetime, not {start!r}")
    return str(start)


def _batch(given: object) -> BatchLimits | None:
    if given is None:
        return None
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise ValueError(f"batch must be (messages, seconds), not {given!r}")
    size, wait = given
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"batch: a number of messages must be an int of at least 1, not {size!r}")
    if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not 0 <= wait <= LONGEST_WAIT:
        raise ValueError(f"batch: it must wait for a number of seconds, 0 to {LONGEST_WAIT:.0f}, not {wait!r}")
    return BatchLimits(size, float(wait))
