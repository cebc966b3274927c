"""Does any broker speak Kafka? Asked by hand on plain sockets: cheap, all at once, and it says why not."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
import struct
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from ipaddress import ip_address
from queue import SimpleQueue
from typing import Any

from attrs import frozen

from .... import log
from ....config_tls import TlsConfig
from ....forks import close_in_child
from ....pem import show_certificate
from ....threads import Deadline, StopToken, spawn

logger = log.get(__name__)

INIT_PRODUCER_ID, DESCRIBE_CONFIGS = 22, 32
"""The numbers of requests: every broker since Kafka 0.11 knows them, the mock of librdkafka only the first."""
_LOOK_EVERY = 0.05
_METADATA, _API_VERSIONS = 3, 18
_LONGEST_ANSWER = 1 << 24
_NUMBER = 0x0D0A0D0A
"""Of every request. It reads as two ends of lines: servers of text protocols answer it, in their own words."""
_CLIENT = b"eventbus-reach"


@frozen
class Finding:
    """What one question found. `text`: why it does not speak. `asks_login`: it takes no requests before a login.

    `apis`: the numbers of the requests that it knows, where more was asked.
    """

    broker: str
    speaks: bool
    text: str = ""
    asks_login: bool = False
    apis: frozenset[int] = frozenset()

    def __str__(self) -> str:
        return f"{self.broker}: {self.text}"


_Waiting = tuple[socket.socket, int]
_Inquiry = Generator[_Waiting, None, Finding]
_Found = tuple[str, str, "list[Any] | OSError"]


def speaks(brokers: Sequence[str], tls: TlsConfig | bool | None, timeout: float, stop: StopToken) -> bool:
    """Whether one of the brokers answers a question about its versions within `timeout` seconds. Never raises.

    brokers: "host:port". tls: ask behind a TLS handshake, which verifies nothing; a client certificate is
    shown where there is one. A stop ends it within 0.1 s.
    """
    with closing(_examine(brokers, tls, timeout, stop)) as findings:
        return any(finding.speaks for finding in findings)


def examine(brokers: Sequence[str], tls: TlsConfig | bool | None, timeout: float, stop: StopToken) -> list[Finding]:
    """Ask all brokers what they speak and know, and wait for all; one finding for each address. Never raises."""
    return list(_examine(brokers, tls, timeout, stop, more=True))


def known_apis(brokers: Sequence[str], tls: TlsConfig | None, timeout: float, stop: StopToken) -> frozenset[int] | None:
    """The numbers of the requests that the first broker to answer knows; None without an answer. Never raises."""
    with closing(_examine(brokers, tls, timeout, stop, more=True)) as findings:
        return next((finding.apis for finding in findings if finding.apis), None)


def _examine(
    brokers: Sequence[str], tls: TlsConfig | bool | None, timeout: float, stop: StopToken, more: bool = False
) -> Generator[Finding, None, None]:
    """The findings as they come. What fails beside the brokers' answers is logged: whoever asks has no use for it."""
    try:
        yield from _ask_all(brokers, tls, timeout, stop, more)
    except Exception:
        logger.warning("asking the brokers %s failed", ", ".join(brokers), exc_info=True)


def _ask_all(
    brokers: Sequence[str], tls: TlsConfig | bool | None, timeout: float, stop: StopToken, more: bool
) -> Generator[Finding, None, None]:
    deadline = Deadline(timeout)
    context = _context(tls)
    resolved = _resolve(brokers)
    unresolved = len(brokers)
    with _selector() as selector:
        while (unresolved or selector.get_map()) and not deadline.over and not stop.is_set():
            while not resolved.empty():
                broker, host, places = resolved.get()
                unresolved -= 1
                if isinstance(places, OSError):
                    yield Finding(broker, False, places.strerror or str(places))
                    continue
                for family, _, _, _, place in places:
                    yield from _advance(selector, _inquire(broker, host, family, place, context, more))
            for key, _ in selector.select(min(_LOOK_EVERY, deadline.remaining())):
                selector.unregister(key.fileobj)
                yield from _advance(selector, key.data)
        for key in list(selector.get_map().values()):
            selector.unregister(key.fileobj)
            yield from _advance(selector, key.data, TimeoutError())


@contextmanager
def _selector() -> Iterator[selectors.BaseSelector]:
    """A selector that ends the inquiries in it."""
    with selectors.DefaultSelector() as selector:
        try:
            yield selector
        finally:
            for key in list(selector.get_map().values()):
                key.data.close()


def _advance(selector: selectors.BaseSelector, inquiry: _Inquiry, error: Exception | None = None) -> Iterator[Finding]:
    try:
        link, events = next(inquiry) if error is None else inquiry.throw(error)
    except StopIteration as end:
        yield end.value
    else:
        selector.register(link, events, inquiry)


def _inquire(broker: str, host: str, family: int, place: Any, context: ssl.SSLContext | None, more: bool) -> _Inquiry:
    """One address; it yields whenever it would have to wait."""
    step = "no connection in time"
    try:
        with closing(close_in_child(socket.socket(family, socket.SOCK_STREAM))) as sock:
            yield from _connect(sock, place)
            step = "it takes connections, and does not answer"
            if context is None:
                return (yield from _ask(broker, sock, more))
            secured = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            with closing(close_in_child(secured)) as link:
                yield from _patiently(link, link.do_handshake)
                return (yield from _ask(broker, link, more))
    except TimeoutError:
        return Finding(broker, False, step)
    except _NothingMore:
        return Finding(broker, False, "it closes the connection")
    except ssl.SSLError as error:
        if "ALERT" in (error.reason or "") and "CERTIFICATE" in (error.reason or ""):
            return Finding(broker, True)  # it is there, and wants a certificate that we could not show
        return Finding(broker, False, f"no TLS: {error.reason or error}")
    except (OSError, ValueError) as error:
        return Finding(broker, False, getattr(error, "strerror", None) or str(error))


class _NothingMore(Exception):
    """The other side has closed the connection."""


def _connect(sock: socket.socket, place: Any) -> Generator[_Waiting, None, None]:
    sock.setblocking(False)
    error = sock.connect_ex(place)
    if error == errno.EINPROGRESS:
        yield sock, selectors.EVENT_WRITE
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _ask(broker: str, link: socket.socket, more: bool) -> _Inquiry:
    # ApiVersions v0: all brokers answer it, and before a login.
    head = yield from _answer(link, _API_VERSIONS, 0, b"")
    length, number = struct.unpack(">ii", head)
    if number != _NUMBER or not 6 <= length <= _LONGEST_ANSWER:
        if head[0] == 0x15 and head[1] == 3:
            return Finding(broker, False, "it speaks TLS")
        return Finding(broker, False, f"it does not speak Kafka: it says {head.decode('latin-1')!a}")
    if not more:
        return Finding(broker, True)
    try:
        apis = _apis_in((yield from _read(link, length - 4)))
    except (TimeoutError, OSError, _NothingMore) as error:
        return Finding(broker, True, asks_login=isinstance(error, (_NothingMore, ConnectionError)))
    try:
        yield from _answer(link, _METADATA, 1, struct.pack(">i", 0))
    except (TimeoutError, OSError, _NothingMore) as error:
        return Finding(broker, True, asks_login=isinstance(error, (_NothingMore, ConnectionError)), apis=apis)
    return Finding(broker, True, apis=apis)


def _apis_in(answer: bytes) -> frozenset[int]:
    """The requests in an ApiVersions v0 answer: error, count, then number, lowest and highest version of each."""
    return frozenset(number for number, _, _ in struct.iter_unpack(">hhh", answer[6 : 6 + (len(answer) - 6) // 6 * 6]))


def _answer(link: socket.socket, api: int, version: int, body: bytes) -> Generator[_Waiting, None, bytes]:
    """Ask, and read the first 8 bytes: length and number."""
    head = struct.pack(">hhih", api, version, _NUMBER, len(_CLIENT)) + _CLIENT
    request = struct.pack(">i", len(head) + len(body)) + head + body
    sent = yield from _patiently(link, link.send, request)
    if sent != len(request):
        raise OSError(errno.EPIPE, "it takes no bytes")
    return (yield from _read(link, 8))


def _read(link: socket.socket, count: int) -> Generator[_Waiting, None, bytes]:
    data = b""
    while len(data) < count:
        part = yield from _patiently(link, link.recv, count - len(data))
        if not part:
            raise _NothingMore
        data += part
    return data


def _patiently(link: socket.socket, call: Any, *args: Any) -> Generator[_Waiting, None, Any]:
    while True:
        try:
            return call(*args)
        except (BlockingIOError, ssl.SSLWantReadError):
            yield link, selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            yield link, selectors.EVENT_WRITE


class _Link(ssl.SSLSocket):
    """Closed when it is forgotten: `wrap_socket` does that with a link that is reset in this moment."""

    def __del__(self) -> None:
        self.close()


def _context(tls: TlsConfig | bool | None) -> ssl.SSLContext | None:
    if tls is None or tls is False:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _Link
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if isinstance(tls, TlsConfig) and tls.certificate is not None:
        with suppress(OSError):  # an encrypted key may not make it ask on the terminal
            show_certificate(context, tls.certificate, tls.key, password="")
    return context


def _resolve(brokers: Sequence[str]) -> SimpleQueue[_Found]:
    """The addresses of the brokers, as they become known. A slow resolver is left behind."""
    found: SimpleQueue[_Found] = SimpleQueue()
    for broker in brokers:
        host, _, port = broker.rpartition(":")
        host = host.strip("[]")
        try:
            ip_address(host.partition("%")[0])
        except ValueError:
            spawn("eventbus.kafka-resolver", _look_up, broker, host, port, found)
        else:
            _look_up(broker, host, port, found)
    return found


def _look_up(broker: str, host: str, port: str, found: SimpleQueue[_Found]) -> None:
    try:
        found.put((broker, host, list(socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM))))
    except OSError as error:
        found.put((broker, host, error))
    except UnicodeError as error:
        found.put((broker, host, OSError(errno.EINVAL, str(error))))
