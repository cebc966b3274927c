"""librdkafka's handles and `os.fork()`: a child must never end a handle of its parent."""

from __future__ import annotations

import ctypes
from typing import Any, TypeVar
from weakref import WeakSet

import confluent_kafka.admin

from ....forks import let_go_in_child

_Handle = TypeVar("_Handle")

_kept: WeakSet[Any] = WeakSet()


class Producer(confluent_kafka.Producer):
    """One that can be referred to weakly."""

    def take_password(self, user: str, password: str) -> None:
        """Log in with these from now on. Any thread."""
        self.set_sasl_credentials(user, password)


class AdminClient(confluent_kafka.admin.AdminClient):
    """One that is given a new password."""

    def take_password(self, user: str, password: str) -> None:
        """Log in with these from now on. Any thread."""
        self.set_sasl_credentials(user, password)


class Consumer(confluent_kafka.Consumer):
    """One that can be referred to weakly, and takes a new password when its owner polls it next.

    Any call of another thread would wait for a moment in which it is not polled, and may wait for ever.
    """

    _login: tuple[str, str] | None = None

    def take_password(self, user: str, password: str) -> None:
        """Log in with these from the next `poll` or `consume` on. Any thread."""
        self._login = user, password

    def poll(self, *args: Any, **kwargs: Any) -> Any:
        """Poll, logged in with the newest password."""
        if self._login is not None:
            self._log_in()
        return super().poll(*args, **kwargs)

    def consume(self, *args: Any, **kwargs: Any) -> Any:
        """Take several messages, logged in with the newest password."""
        if self._login is not None:
            self._log_in()
        return super().consume(*args, **kwargs)

    def _log_in(self) -> None:
        login, self._login = self._login, None
        if login is not None:
            self.set_sasl_credentials(*login)


def keep(handle: _Handle) -> _Handle:
    """Remember a client for as long as it lives: in a forked child it is leaked.

    Its threads are not there in the child: ending it there hangs, or aborts the process even at a plain exit.
    """
    _kept.add(handle)
    return handle


@let_go_in_child
def _leak() -> None:
    for handle in list(_kept):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
