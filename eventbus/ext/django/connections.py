"""Database connections around the handlers of a bus: as good as around a request, and missed without harm."""

from __future__ import annotations

from typing import Any

from django.db import Error, InterfaceError, OperationalError, close_old_connections, connections

from ... import RetryConfig
from ...middleware import Consume
from ...outages import put_off


def with_fresh_connections(retry: RetryConfig, message: Any, call_next: Consume) -> object:
    """Consume middleware, but for `retry`: before and after each message connections that are old or broken are closed.

    A handler that fails because its database is away has not failed: its message is put off (`RetryLater`, after
    pauses as `retry` has them) for as long as that lasts, and makes no dead letter. On the lane's thread.
    """
    close_old_connections()
    pause = retry.pause_after(getattr(message, "attempt", 1))
    try:
        with put_off(message, pause, (OperationalError, InterfaceError), _what_is_away):
            return call_next(message)
    finally:
        close_old_connections()


def _what_is_away() -> str:
    away = [connection.alias for connection in connections.all(initialized_only=True) if _is_away(connection)]
    return f"no connection to database {', '.join(away)}" if away else ""


def _is_away(connection: Any) -> bool:
    """Whether no connection to this database can be had, now."""
    try:
        connection.close_if_unusable_or_obsolete()
        connection.ensure_connection()
    except Error:
        return True
    return False
