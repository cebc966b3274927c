"""Does any server speak? Asked often while there is no connection, so it is cheap and asks all at once."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from ....config import NatsConfig
from ....forks import close_in_child
from ....threads import Deadline, Stopped, StopToken
from .addresses import Server
from .dialing import Attempt, Dialer, open_socket, resolve

_LOOK_EVERY = 0.05
_ENOUGH = b"INFO "


def any_speaks(config: NatsConfig, servers: Sequence[Server], timeout: float, stop: StopToken) -> bool:
    """Whether one of the servers sends the beginning of INFO within `timeout` seconds. Never raises.

    With `handshake_first` that takes a TLS handshake, verified as configured, with one server after another.
    """
    try:
        if config.tls is not None and config.tls.handshake_first:
            return _any_secured(config, servers, timeout, stop)
        with ExitStack() as stack:
            return _any_plain(servers, Deadline(timeout), stop, stack)
    except (OSError, ValueError, Stopped):
        return False


def _any_plain(servers: Sequence[Server], deadline: Deadline, stop: StopToken, stack: ExitStack) -> bool:
    selector = stack.enter_context(selectors.DefaultSelector())
    attempt = Attempt(deadline.remaining(), stop)
    for server in servers:
        with suppress(OSError):
            for family, place in resolve(server, attempt):
                sock = stack.enter_context(close_in_child(socket.socket(family, socket.SOCK_STREAM)))
                sock.setblocking(False)
                sock.connect_ex(place)
                selector.register(sock, selectors.EVENT_READ, bytearray())
    while selector.get_map() and not deadline.over and not stop.is_set():
        for key, _ in selector.select(min(_LOOK_EVERY, deadline.remaining())):
            received: bytearray = key.data
            data = b""
            with suppress(OSError):
                data = key.fileobj.recv(len(_ENOUGH))  # type: ignore[union-attr]
            received += data
            if received.startswith(_ENOUGH):
                return True
            if not data or not _ENOUGH.startswith(received):
                selector.unregister(key.fileobj)
    return False


def _any_secured(config: NatsConfig, servers: Sequence[Server], timeout: float, stop: StopToken) -> bool:
    attempt = Attempt(timeout, stop)
    dialer = Dialer(config, "")
    with stop.interrupts(attempt.interrupt):
        for position, server in enumerate(servers):
            attempt.part(len(servers) - position)
            with suppress(OSError, ValueError):
                for address in resolve(server, attempt):
                    if _secured_speaks(dialer, server, open_socket(address, attempt), attempt):
                        return True
    return False


def _secured_speaks(dialer: Dialer, server: Server, sock: socket.socket, attempt: Attempt) -> bool:
    with ExitStack() as stack:
        stack.callback(attempt.use, None)
        stack.enter_context(sock)
        secured = stack.enter_context(dialer.wrap(server, sock, attempt))
        received = b""
        while len(received) < len(_ENOUGH):
            secured.settimeout(attempt.remaining())
            data = secured.recv(len(_ENOUGH) - len(received))
            if not data:
                break
            received += data
        return received == _ENOUGH
