"""Whether gevent has put greenlets in the place of threads, and whether a bus can run on them."""

from __future__ import annotations

import sys

from .errors import UnsupportedError

_WAITS = frozenset({"threading", "queue", "socket", "select"})
"""The modules of the standard library in which we wait."""


def _patched() -> frozenset[str]:
    """Which of them `gevent.monkey` has patched."""
    monkey = sys.modules.get("gevent.monkey")
    return frozenset(name for name in _WAITS if monkey is not None and monkey.is_module_patched(name))


_patched_at_import = _patched()
"""What we have taken from them was taken then."""


def are_threads() -> bool:
    """Whether `threading` starts greenlets here."""
    return "threading" in _patched()


def check(bus: str, backend: str, waits_in_c: bool) -> None:
    """UnsupportedError where gevent has patched what the bus would hang on; says what to do instead.

    waits_in_c: the backend's client waits where no greenlet can take over.
    """
    patched, left = _patched(), _WAITS - _patched()
    if not patched:
        return
    if waits_in_c:
        raise UnsupportedError(
            f"{bus}: gevent has patched the standard library, and {backend}'s client waits in C, where it would stop "
            "every greenlet of the process: run this bus where nothing is patched (gunicorn: --worker-class gthread), "
            "or use NATS"
        )
    if left:
        raise UnsupportedError(
            f"{bus}: gevent has patched {', '.join(sorted(patched))}, but not {', '.join(sorted(left))}; a bus waits "
            "in all of them, and would hang: call gevent.monkey.patch_all() without exceptions, or not at all"
        )
    if _patched_at_import != _WAITS:
        raise UnsupportedError(
            f"{bus}: gevent has patched threading after eventbus was imported, which holds locks and queues that would "
            "stop every greenlet: call gevent.monkey.patch_all() before the first import of eventbus (gunicorn: in the "
            "first line of gunicorn.conf.py)"
        )
