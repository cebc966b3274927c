"""Where and when a message is to be stored, for those who name it when they publish."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from ..fields import BadValue

Place = tuple[int, int]
"""A partition, -1 for any, and a timestamp in milliseconds, 0 for now."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
_MOST_PARTITIONS = 2**31


def check_place(partition: object, timestamp: object) -> Place | None:
    """What a message's partition and timestamp come to; None without both. BadValue."""
    if partition is None and timestamp is None:
        return None
    return _checked_partition(partition), _checked_timestamp(timestamp)


def _checked_partition(partition: object) -> int:
    if partition is None:
        return -1
    if isinstance(partition, bool) or not isinstance(partition, int) or not 0 <= partition < _MOST_PARTITIONS:
        raise BadValue(f"bad partition {partition!r}: a number from 0 on")
    return partition


def _checked_timestamp(timestamp: object) -> int:
    if timestamp is None:
        return 0
    if not isinstance(timestamp, datetime) or timestamp.tzinfo is None:
        raise BadValue(f"bad timestamp {timestamp!r}: a datetime with a time zone")
    milliseconds = (timestamp - _EPOCH) // _MILLISECOND
    if milliseconds <= 0:
        raise BadValue(f"bad timestamp {timestamp!r}: after 1970-01-01 UTC")
    return milliseconds
