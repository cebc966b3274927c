"""What librdkafka's errors mean, and what the error callback of a client has said."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable

from confluent_kafka import KafkaError

from .... import log

logger = log.get(__name__)

HOPELESS = frozenset(
    {
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_CONFIG,
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_REQUEST,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError._INVALID_ARG,
    }
)
"""Codes of creating a topic that waiting does not mend. Too few brokers for the replicas is none: they may come."""

_VARYING = re.compile(r" \(after \d+ms in state (\w+)(?:, \d+ identical error\(s\) suppressed)?\)")
_TLS_REFUSAL = re.compile(
    r"certificate verify failed|verify_failed|alert (?:bad|unsupported|unknown|no)[ _]certificate"
    r"|certificate[ _](?:required|revoked|expired|unknown)"
    r"|alert (?:unknown ca|access denied|handshake failure)",
    re.IGNORECASE,
)
_MOST_TEXTS = 64


def is_fatal(error: KafkaError) -> bool:
    """Whether the client that reported it will never work again."""
    return bool(error.code() == KafkaError._FATAL or error.fatal())  # one does not imply the other


def text_of(error: object) -> str:
    """One line for people, from a KafkaError or the KafkaException around one."""
    if isinstance(error, BaseException) and error.args:
        error = error.args[0]
    if not isinstance(error, KafkaError):
        return str(error) or type(error).__name__
    name, text = error.name().lstrip("_"), error.str().strip()
    text = " ".join(_VARYING.sub("", text).split())
    return f"{text} ({name})" if text else name


def is_refusal(error: KafkaError) -> bool:
    """Whether a broker does not want these credentials, or one side the other's certificate."""
    code, text = error.code(), error.str()
    if code in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
        return "Local: " not in text  # a link that is lost while authenticating is reported so too
    return code in (KafkaError._SSL, KafkaError._TRANSPORT) and _TLS_REFUSAL.search(text) is not None


class ClientErrors:
    """What the `error_cb` of one client has said. Attributes may be read by any thread.

    refused: the last refusal of credentials or certificates. last: the last text, refusals included.
    fatal: the client is of no use any more; `on_fatal`, if given, is called with it, once, on the thread that
    polls: it must not call the client. quiet: log at DEBUG, for a client whose errors are raised by a connect.
    """

    def __init__(self, name: str, on_fatal: Callable[[KafkaError], object] | None = None) -> None:
        """`name` stands in the log."""
        self.refused: KafkaError | None = None
        self.last: str | None = None
        self.fatal: KafkaError | None = None
        self.on_fatal = on_fatal
        self.quiet = False
        self._name = name
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._repeats = 0

    def note(self, error: KafkaError) -> None:
        """The client's `error_cb`. Never raises."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not error.fatal():
            logger.debug("%s: %s", self._name, text_of(error))  # it comes without cause, and stays away with one
            return
        text = text_of(error)
        with self._lock:
            self.last = text
            if is_refusal(error):
                self.refused = error
            first_fatal = is_fatal(error) and self.fatal is None
            if first_fatal:
                self.fatal = error
            repeats = self._count(text)
        if repeats is not None:
            level = logging.DEBUG if self.quiet else logging.WARNING
            logger.log(level, "%s: %s%s", self._name, text, f" ({repeats} repeats not shown)" if repeats else "")
        if first_fatal and self.on_fatal is not None:
            self._tell(error)

    def forget(self) -> None:
        """The broker answers (again): what is said from now on is news, and logged. A fatal error stays."""
        with self._lock:
            self.refused = self.last = None
            self._seen.clear()
            repeats, self._repeats = self._repeats, 0
            quiet, self.quiet = self.quiet, False
        if repeats and not quiet:
            logger.info("%s: %d repeated errors were not shown", self._name, repeats)

    def _count(self, text: str) -> int | None:
        """How many repeats were held back until this text, which is new; None if it is a repeat itself."""
        if text in self._seen or len(self._seen) >= _MOST_TEXTS:
            self._repeats += 1
            return None
        self._seen.add(text)
        repeats, self._repeats = self._repeats, 0
        return repeats

    def _tell(self, error: KafkaError) -> None:
        try:
            if self.on_fatal is not None:
                self.on_fatal(error)
        except Exception:  # it would come out of the poll of whoever is polling
            logger.exception("%s: a callback failed", self._name)
