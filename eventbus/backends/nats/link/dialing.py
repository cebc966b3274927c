"""Making a connection: one overall timeout over all servers and addresses, interruptible at any point."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from attrs import frozen

from .... import log
from ....config import NatsConfig
from ....config_tls import TlsConfig
from ....errors import AuthenticationError, ConnectFailedError
from ....forks import close_in_child
from ....pem import is_pem, show_certificate
from ....threads import Deadline, Stopped, StopToken, spawn
from .addresses import Server
from .credentials import Credentials, CredentialsReader
from .pynats import Dial, Refused
from .race import Race
from .wire import ProtocolError

logger = log.get(__name__)

_LOOK_EVERY = 0.05
"""Seconds between looks at the stop token where no socket can be shut down to wake the wait."""
_SAYING = 0.05
"""Seconds in which each that had no success can still say why."""
_AUTHENTICATION = ("authorization violation", "authentication expired", "authentication revoked")

Address = tuple[int, Any]


@frozen
class Link:
    """A connected socket after the handshake: what came behind it, the server's INFO, and which server."""

    sock: socket.socket
    received: bytes
    info: dict[str, Any]
    server: Server


class Attempt:
    """What bounds one connect: a deadline, and a stop that shuts down the socket in use."""

    def __init__(self, timeout: float, stop: StopToken) -> None:
        self.stop = stop
        self._overall = Deadline(timeout)
        self._part = self._overall
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def part(self, share: int) -> None:
        """Give the next server one `share`-th of what is left."""
        self._part = Deadline(self._overall.remaining() / max(1, share))

    def remaining(self) -> float:
        """Seconds left for this server; TimeoutError when there are none, Stopped after a stop."""
        self.stop.check()
        left = min(self._part.remaining(), self._overall.remaining())
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def use(self, sock: socket.socket | None) -> None:
        """This is the socket that a stop must shut down."""
        with self._lock:
            self._socket = sock
        if self.stop.is_set():
            self.interrupt()

    def interrupt(self) -> None:
        """Wake whoever waits on the socket. Any thread."""
        with self._lock:
            if self._socket is not None:
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Dialer:
    """Connects to servers as the configuration says."""

    def __init__(self, config: NatsConfig, client_name: str, reader: CredentialsReader | None = None) -> None:
        self._config = config
        self._reader = reader
        self._client_name = client_name
        self._credentials = Credentials()

    def dial(self, servers: Sequence[Server], timeout: float, stop: StopToken) -> Link:
        """The first address of a server that takes us; ConnectFailedError, AuthenticationError or Stopped.

        They are tried in order, the next one beside those before it, and none is cut off before the time is up.
        """
        deadline, own = Deadline(timeout), Deadline(timeout - min(_SAYING, 0.1 * timeout))
        if self._reader is not None:
            self._credentials = self._reader.read(own, stop)
        race: Race[Link] = Race("eventbus.nats-dialing", lambda link: link.sock.close())
        race.add([partial(self._enter, race, server, own) for server in servers])
        link, failures = race.run(deadline, stop)
        for error in failures if link is None else ():
            if not isinstance(error, (ConnectFailedError, Stopped)):
                raise error  # no server's answer: a bug of ours, or the system's last resort
        if link is None:
            raise _summary([error for error in failures if isinstance(error, ConnectFailedError)], timeout)
        return link

    def _enter(self, race: Race[Link], server: Server, deadline: Deadline, stop: StopToken) -> Link:
        """Try the first address of a server; the others are tried beside it."""
        attempt = Attempt(deadline.remaining(), stop)
        try:
            addresses = resolve(server, attempt)
        except OSError as error:
            raise ConnectFailedError(f"{server}: {error}") from error
        if not addresses:
            raise ConnectFailedError(f"{server}: the name has no address")
        ways = [partial(self._connect, server, address, deadline) for address in addresses]
        race.add(ways[1:])
        return ways[0](stop)

    def _connect(self, server: Server, address: Address, deadline: Deadline, stop: StopToken) -> Link:
        attempt = Attempt(deadline.remaining(), stop)
        with stop.interrupts(attempt.interrupt):
            return self._handshake(server, address, attempt)

    def _handshake(self, server: Server, address: Address, attempt: Attempt) -> Link:
        dial: Dial | None = None
        sock: socket.socket | None = None
        try:
            sock = open_socket(address, attempt)
            secure, options = self._securing(server, attempt), self._login(server)
            dial = Dial(f"nats://{server}", sock, attempt.remaining, secure, options)
            dial.connect()
            _check_features(dial.info)
            return Link(dial.connected, dial.received, dial.info, server)
        except BaseException as error:
            for used in (sock, dial and dial.connected):
                if used is not None:
                    used.close()
            attempt.stop.check()
            spoke = dial is not None and bool(dial.info)
            failure = _typed(server, error, spoke, self._credentials.expired)
            if failure is error:
                raise
            raise failure from error
        finally:
            attempt.use(None)

    def _login(self, server: Server) -> Any:
        def options(info: Mapping[str, Any]) -> dict[str, Any]:
            fields: dict[str, Any] = {"name": self._client_name, "echo": True}
            if server.token is not None:
                fields["auth_token"] = server.token
            elif server.user is not None:
                fields |= {"user": server.user, "pass": server.password}
            else:
                fields |= self._credentials.fields(info)
            return fields

        return options

    def _securing(self, server: Server, attempt: Attempt) -> Any:
        tls = self._config.tls
        first = tls is not None and tls.handshake_first

        def secure(sock: socket.socket, info: Mapping[str, Any] | None) -> socket.socket:
            if info is None:
                return self.wrap(server, sock, attempt) if first else sock
            offered = bool(info.get("tls_required") or info.get("tls_available"))
            wanted = tls is not None or server.tls
            if wanted and not offered:
                raise ProtocolError("the server offers no TLS, and the configuration asks for it")
            if wanted or info.get("tls_required"):
                return self.wrap(server, sock, attempt)
            return sock

        return secure

    def wrap(self, server: Server, sock: socket.socket, attempt: Attempt) -> socket.socket:
        """A TLS socket over this one, verified as configured; OSError."""
        tls = self._config.tls or TlsConfig()
        context = tls_context(tls)
        name = tls.hostname or server.verify_as or server.host.partition("%")[0]
        sock.settimeout(attempt.remaining())
        secured = close_in_child(context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False))
        attempt.use(secured)
        try:
            secured.do_handshake()
        except BaseException:
            secured.close()
            raise
        return secured


def tls_context(tls: TlsConfig) -> ssl.SSLContext:
    """A context as configured; OSError when a file cannot be read."""
    inline = tls.ca is not None and is_pem(tls.ca)
    context = ssl.create_default_context(cafile=None if inline else tls.ca, cadata=tls.ca if inline else None)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.certificate is not None:
        show_certificate(context, tls.certificate, tls.key)
    return context


def resolve(server: Server, attempt: Attempt) -> list[Address]:
    """All addresses of a server, in the system's order; OSError. A slow resolver is left behind."""
    if server.is_address:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [(entry[0], entry[4]) for entry in found]
    answers: list[Any] = []
    done = threading.Event()

    def ask() -> None:
        try:
            answers.extend(socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM))
        except OSError as error:
            answers.append(error)
        done.set()

    spawn("eventbus.nats-resolver", ask)
    while not done.wait(min(_LOOK_EVERY, attempt.remaining())):
        pass
    if answers and isinstance(answers[0], OSError):
        raise answers[0]
    return [(entry[0], entry[4]) for entry in answers]


def open_socket(address: Address, attempt: Attempt) -> socket.socket:
    """A connected TCP socket; OSError, Stopped."""
    family, place = address
    sock = close_in_child(socket.socket(family, socket.SOCK_STREAM))
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setblocking(False)
        error = sock.connect_ex(place)
        if error == errno.EINPROGRESS:
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            while not poll.poll(math.ceil(min(_LOOK_EVERY, attempt.remaining()) * 1000)):
                pass
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        attempt.use(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_features(info: Mapping[str, Any]) -> None:
    if not info.get("headers"):
        raise ProtocolError("the server is too old: it knows no message headers")


def _typed(server: Server, error: BaseException, spoke: bool, expired: str) -> BaseException:
    if isinstance(error, Refused):
        text = str(error)
        if any(word in text.lower() for word in _AUTHENTICATION):
            return AuthenticationError(f"{server} refused the credentials: {text}{expired}")
        return ConnectFailedError(f"{server} refused the connection: {text}", server_spoke=spoke)
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message or error.reason
        return ConnectFailedError(f"{server}: its TLS certificate is not trusted: {reason}", server_spoke=spoke)
    if isinstance(error, ProtocolError):
        return ConnectFailedError(f"{server} does not speak NATS as expected: {error}", server_spoke=spoke)
    if isinstance(error, (OSError, ValueError)):
        return ConnectFailedError(f"{server}: {error or type(error).__name__}", server_spoke=spoke)
    return error


def _summary(failures: Sequence[ConnectFailedError], timeout: float) -> ConnectFailedError:
    """One error for all servers: wrong credentials only where all say so, for one's answer is not the others'."""
    if not failures:
        return ConnectFailedError(f"no server answered within {timeout:g} s")
    if len(failures) == 1 or all(isinstance(error, AuthenticationError) for error in failures):
        return failures[0]
    text = "; ".join(dict.fromkeys(str(error) for error in failures))
    return ConnectFailedError(text, server_spoke=any(error.server_spoke for error in failures))
