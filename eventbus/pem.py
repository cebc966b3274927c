"""Certificates and keys that are given as text, in place of the path of a file."""

from __future__ import annotations

import os
import ssl
from contextlib import ExitStack

_BEGIN = "-----BEGIN"


def is_pem(text: str) -> bool:
    """Whether this is a certificate or key itself, and no path."""
    return _BEGIN in text


def show_certificate(context: ssl.SSLContext, certificate: str, key: str | None, password: str | None = None) -> None:
    """Show a client certificate, of files or texts, where a server asks for one; OSError."""
    with ExitStack() as files:
        path = _path_of(certificate, files)
        context.load_cert_chain(path, None if key is None else _path_of(key, files), password)


def _path_of(text: str, files: ExitStack) -> str:
    """The path of a text, for OpenSSL takes only files: one in memory, so that no key is written to a disk."""
    if not is_pem(text):
        return text
    number = os.memfd_create("eventbus-pem")
    files.callback(os.close, number)
    data = text.encode()
    while data:
        data = data[os.write(number, data) :]
    return f"/proc/self/fd/{number}"
