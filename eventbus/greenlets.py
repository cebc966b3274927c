"""Whether gevent has put greenlets in the place of threads, and whether a bus can run on them."""

from __future__ import annotations

import sys

from .errors import UnsupportedError


def are_threads() -> bool:
    """Whether `threading` starts greenlets here: `gevent.monkey` has patched it."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


_were_threads = are_threads()
"""When the library was imported, and with it what it takes from the standard library."""


def check(bus: str, backend: str, waits_in_c: bool) -> None:
    """UnsupportedError where threads are greenlets and the bus would hang; says what to do instead.

    waits_in_c: the backend's client waits where no greenlet can take over.
    """
    if not are_threads():
        return
    if waits_in_c:
        raise UnsupportedError(
            f"{bus}: gevent has patched threading, and {backend}'s client waits in C, where it would stop every "
            "greenlet of the process: run this bus where nothing is patched (gunicorn: --worker-class gthread), "
            "or use NATS"
        )
    if not _were_threads:
        raise UnsupportedError(
            f"{bus}: gevent has patched threading after eventbus was imported, which holds locks and queues that would "
            "stop every greenlet: call gevent.monkey.patch_all() before the first import of eventbus (gunicorn: in the "
            "first line of gunicorn.conf.py)"
        )
