"""The wall around pynats2: it parses URLs, reads the handshake's lines and sends CONNECT; then it is out.

Its own reader, writer, pinger and reconnect never run. Nothing else in the library imports it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import socket
import ssl
import sys
import threading
import types
from collections.abc import Callable, Mapping
from typing import Any

from ....errors import UnsupportedError
from .wire import MAX_LINE, ProtocolError

VERSION = "0.9.0"
_MEMBERS = (
    "_recv",
    "_get_command",
    "_readline",
    "_send",
    "_connect_tls",
    "_send_connect_command",
    "connect",
    "close",
)
_PATTERNS = ("INFO_RE", "PONG_RE", "ERR_RE", "OK_RE")
_import_lock = threading.Lock()


def _load() -> tuple[Any, Any]:
    """Import pynats2 and its client module; UnsupportedError says what is missing."""
    with _import_lock:
        stand_in = None
        if "pynats2" not in sys.modules and importlib.util.find_spec("pkg_resources") is None:
            stand_in = _stand_in()
            sys.modules["pkg_resources"] = stand_in
        try:
            return importlib.import_module("pynats2"), importlib.import_module("pynats2.client")
        except ImportError as error:
            raise UnsupportedError(f"NATS needs pynats2=={VERSION}: pip install 'jxt-eventbus[nats]'") from error
        finally:
            if stand_in is not None and sys.modules.get("pkg_resources") is stand_in:
                del sys.modules["pkg_resources"]


def _stand_in() -> types.ModuleType:
    """What pynats2 asks of pkg_resources, which new versions of setuptools no longer bring."""
    module = types.ModuleType("pkg_resources")

    def get_distribution(name: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(version=importlib.metadata.version(name))

    module.__dict__["get_distribution"] = get_distribution
    return module


def missing_names(client: Any) -> list[str]:
    """The private names that we rely on and this client module does not have."""
    stock = getattr(client, "NATSNoSubscribeClient", None)
    missing = [name for name in _PATTERNS if not hasattr(client, name)]
    missing += [name for name in _MEMBERS if not hasattr(stock, name)]
    slots = getattr(stock, "__slots__", ())
    return missing + [name for name in ("_conn_options", "_socket", "_socket_buffer") if name not in slots]


_pynats2, _client = _load()
if _missing := missing_names(_client):
    raise UnsupportedError(f"this pynats2 has no {', '.join(_missing)}: install pynats2=={VERSION}")


class Dial(_pynats2.NATSNoSubscribeClient):  # type: ignore[misc, name-defined]
    """One handshake on a connected socket: INFO, TLS if asked for, CONNECT, PING, PONG.

    remaining(): seconds left, asked before every wait. secure(socket, info): a TLS socket, or the same one
    if none is needed. options(info): more fields for CONNECT.
    """

    def __init__(
        self,
        url: str,
        sock: socket.socket,
        remaining: Callable[[], float],
        secure: Callable[[socket.socket, Mapping[str, Any] | None], socket.socket],
        options: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        super().__init__(url)
        self._socket: socket.socket = sock
        self._socket_buffer: bytes = b""
        self._remaining = remaining
        self._secure = secure
        self._options = options
        self.info: dict[str, Any] = {}
        """The server's INFO, empty until it has spoken."""

    @property
    def connected(self) -> socket.socket:
        """The socket, a TLS one once there is TLS."""
        return self._socket

    @property
    def received(self) -> bytes:
        """What came behind the handshake."""
        return self._socket_buffer

    def connect(self) -> None:
        """Do the handshake. OSError, ProtocolError, or `Refused` with what the server said."""
        self._socket = self._secure(self._socket, None)
        self._expect(_client.INFO_RE)
        if not isinstance(self._socket, ssl.SSLSocket):
            secured = self._secure(self._socket, self.info)
            if secured is not self._socket and self._socket_buffer:
                raise ProtocolError("bytes between INFO and the TLS handshake")
            self._socket = secured
        self._send_connect_command()
        self._expect(_client.PONG_RE)

    def _expect(self, wanted: Any) -> None:
        while True:
            command, match = self._answer()
            if command is _client.ERR_RE:
                raise Refused((match.group(1) or b"").decode("utf-8", "replace").strip("' "))
            if command is _client.INFO_RE:
                self._take_info(match.group(1))
            if command is wanted:
                return

    def _answer(self) -> tuple[Any, Any]:
        line = self._readline()
        command = self._get_command(line)
        match = command.match(line) if command is not None else None
        if match is None or command not in (_client.INFO_RE, _client.PONG_RE, _client.ERR_RE, _client.OK_RE):
            raise ProtocolError(f"unexpected {line!r:.80}")
        return command, match

    def _take_info(self, text: bytes) -> None:
        try:
            info = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"INFO is no JSON: {text!r:.80}") from error
        if not isinstance(info, dict):
            raise ProtocolError(f"INFO is no JSON object: {text!r:.80}")
        self.info.update(info)

    def _send_connect_command(self) -> None:
        options = {key: self._conn_options[key] for key in ("lang", "version")}
        options |= {
            "verbose": False,
            "pedantic": False,
            "protocol": 1,
            "headers": True,
            "no_responders": True,
        }
        options |= self._options(self.info)
        self._socket.settimeout(self._remaining())
        self._socket.sendall(b"CONNECT " + json.dumps(options).encode() + b"\r\nPING\r\n")

    def _readline(self, *, size: int | None = None) -> bytes:
        parts = [self._socket_buffer]
        length = len(self._socket_buffer)
        while b"\n" not in parts[-1]:
            if length > MAX_LINE:
                raise ProtocolError(f"a line of more than {MAX_LINE} bytes")
            self._socket.settimeout(self._remaining())
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("the connection was closed during the handshake")
            parts.append(data)
            length += len(data)
        line, newline, self._socket_buffer = b"".join(parts).partition(b"\n")
        return line + newline


class Refused(Exception):
    """The server answered the handshake with -ERR; the text is what it said."""
