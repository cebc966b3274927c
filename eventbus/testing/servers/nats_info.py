"""Asking a NATS server the least: its INFO line, and its monitoring pages."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from typing import Any, cast

_LONGEST_INFO = 1 << 20


def read_info(address: tuple[str, int], timeout: float, context: ssl.SSLContext | None = None) -> dict[str, Any]:
    """Connect, read the INFO line, hang up. ``context``: the server wants the TLS handshake first.

    Raises:
        OSError: nobody listens, or no INFO came within ``timeout`` seconds.
    """
    with socket.create_connection(address, timeout) as plain:
        if context is None:
            return _read_line(plain)
        with context.wrap_socket(plain, server_hostname=address[0]) as wrapped:
            return _read_line(wrapped)


def fetch_page(host: str, port: int, page: str, timeout: float) -> dict[str, Any]:
    """Return a page of the monitoring port, e.g. ``varz`` or ``jsz?streams=1``.

    Raises:
        OSError: no answer within ``timeout`` seconds, or not the JSON object it should be.
    """
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", f"/{page}")
        return cast(dict[str, Any], json.loads(connection.getresponse().read()))
    except (http.client.HTTPException, ValueError) as exc:
        raise ConnectionError(f"no proper answer to /{page}: {exc!r}") from exc
    finally:
        connection.close()


def _read_line(sock: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\r\n"):
        part = sock.recv(65536)
        if not part or len(data) > _LONGEST_INFO:
            raise ConnectionError(f"it hung up before its INFO: {data[:80]!r}")
        data += part
    verb, _, body = data.partition(b" ")
    if verb != b"INFO":
        raise ConnectionError(f"not a NATS server: {data[:80]!r}")
    return cast(dict[str, Any], json.loads(body))
