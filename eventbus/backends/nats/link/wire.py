"""The NATS protocol as bytes: frames out, an incremental parser in. No sockets, no threads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from .... import log
from ....fields import RawHeaders, shown, shown_name

logger = log.get(__name__)

MAX_LINE = 1024 * 1024
"""INFO of a large cluster, and what a server lets clients make of a subject (`max_control_line`), a reply behind it."""
MAX_FRAME = 64 * 1024 * 1024 + 64 * 1024
"""The most that a server can be set to, and room for headers. Its present `max_payload` says nothing about
messages that it stored before."""

PING = b"PING\r\n"
PONG = b"PONG\r\n"
CRLF = b"\r\n"
VERSION = b"NATS/1.0"
ID_HEADER = "Nats-Msg-Id"
KEY_HEADER = "Eventbus-Key"
COPY_HEADER = "Eventbus-Id"
"""The id of a message that is stored under another one: a dead letter, or a replay."""

_CACHED_LINES = 2048
_MOST_DIGITS = 36
"""Of all numbers in the line of a message together."""
_KEY_LINE = b"\r\nEventbus-Key:"
_SOURCE_LINE = b"\r\nNats-Stream-Source:"
_OTHER_SPACE = re.compile(rb"[\x0b\x0c\r]")
"""What `split` takes for space, and the protocol for a part of a subject."""
_UNSAFE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_SUBJECT = re.compile(rb"[^\s\x00-\x1f\x7f]+\Z")

Add = Callable[[str, "bytes | None", "bytes | None", bytes], None]
"""`add(topic, reply, header block, payload)`: takes one message, on the reader thread."""


class ProtocolError(Exception):
    """The peer does not speak NATS, or breaks its rules: the link cannot go on."""


class Route(Protocol):
    """Where the messages of one SUB go. `cacheable`: the same header lines come again and again."""

    cacheable: bool

    def adder(self, topic: str) -> Add:
        """Who takes the messages with this topic."""


def checked_subject(subject: str) -> bytes:
    """The subject as bytes; ValueError if it would break the frame it stands in."""
    encoded = subject.encode()
    if not _SUBJECT.match(encoded):
        raise ValueError(f"bad subject {subject!r:.80}: it has blanks or control characters, or is empty")
    return encoded


def pub(subject: str, payload: bytes = b"", reply: str = "") -> bytes:
    """A PUB frame; ValueError for a subject that cannot stand in one."""
    head = checked_subject(subject)
    if reply:
        head += b" " + checked_subject(reply)
    return b"PUB %b %d\r\n%b\r\n" % (head, len(payload), payload)


def sub(subject: str, sid: int, queue: str = "") -> bytes:
    """A SUB frame, in a queue group if one is named."""
    head = checked_subject(subject)
    if queue:
        head += b" " + checked_subject(queue)
    return b"SUB %b %d\r\n" % (head, sid)


def unsub(sid: int) -> bytes:
    """An UNSUB frame."""
    return b"UNSUB %d\r\n" % sid


def header_block(
    message_id: str, key: str | bytes | None, headers: RawHeaders | None, copy_id: str | None = None
) -> bytes:
    """The header block of a message; ValueError for what would break it, or would be read as something else.

    Keys are UTF-8 text. A header's value may be in any encoding that needs no control characters. Blanks and tabs
    around a value are padding to those who read it.
    """
    lines = [_line(ID_HEADER, message_id.encode())]
    if copy_id is not None:
        lines.append(_line(COPY_HEADER, copy_id.encode()))
    if key is not None:
        encoded = key.encode() if isinstance(key, str) else key
        if not _is_text(encoded):
            raise ValueError(f"key {encoded!r:.80} is not UTF-8 text: NATS carries it in a header")
        lines.append(_line(KEY_HEADER, encoded))
    for name, value in headers or ():
        lines.append(_line(_checked_name(name), value))
    return b"%b\r\n%b\r\n\r\n" % (VERSION, CRLF.join(lines))


def _line(name: str, value: bytes | None) -> bytes:
    if value is None:
        raise ValueError(f"header {name!r:.80} is null: only Kafka and memory have that, NATS does not")
    if _UNSAFE.search(value) or value != value.strip(b" \t"):
        raise ValueError(
            f"header {name!r:.80}: {value!r:.80} has control characters (CR, LF, NUL, ...) or outer blanks"
        )
    return b"%b: %b" % (name.encode(), value)


def _checked_name(name: str) -> str:
    if name in (KEY_HEADER, COPY_HEADER) or name.lower().startswith("nats-"):
        raise ValueError(f"header name {name!r:.80} is reserved: on NATS it means something")
    if not name or ":" in name or name != name.strip(" \t") or _UNSAFE.search(name.encode()):
        raise ValueError(f"header name {name!r:.80} is empty, or has a colon, control characters or outer blanks")
    return name


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def parse_headers(block: bytes) -> dict[str, str]:
    """The headers of a block as text, the first value of each; lines that are none are left out."""
    headers: dict[str, str] = {}
    for name, value in parse_raw_headers(block):
        headers.setdefault(shown_name(name), shown(value))
    return headers


def parse_raw_headers(block: bytes) -> Iterator[tuple[str, bytes]]:
    """The headers of a block in order, repeats and bytes as they came; lines that are none are left out.

    Bytes in a name that are not UTF-8 become lone surrogates: such a name cannot be published in a changed form.
    """
    for line in block.split(CRLF)[1:]:
        name, colon, value = line.partition(b":")
        if colon and name:
            yield name.strip(b" \t").decode(errors="surrogateescape"), value.strip(b" \t")


def key_in(block: bytes) -> bytes | None:
    """The key in a header block, found at a fraction of the cost of reading all."""
    return _value_of(_KEY_LINE, block)


def source_in(block: bytes) -> str | None:
    """The stream that a message was copied from, with ":" and more behind the name where it is another account's.

    None where it was not copied.
    """
    source = _value_of(_SOURCE_LINE, block)
    return None if source is None else source.split(b" ", 1)[0].decode(errors="replace")


def _value_of(line: bytes, block: bytes) -> bytes | None:
    start = block.find(line)
    if start < 0:
        return None
    start += len(line)
    return block[start : block.find(CRLF, start)].strip(b" \t")


def status_of(block: bytes | None) -> tuple[int, str]:
    """The status code and text of a header block, (0, "") if it has none."""
    if block is None or block[8:9] != b" ":
        return 0, ""
    code, _, text = block[9:].partition(CRLF)[0].partition(b" ")
    return (int(code) if code.isdigit() else 0), text.decode("utf-8", "replace")


class Parser:
    """Takes what the socket gives, in pieces of any size, and hands out whole messages and control lines.

    routes: by sid. control(line): every line that is no message. All on the thread that calls `feed`.
    """

    def __init__(self, routes: Mapping[int, Route], control: Callable[[bytes], None]) -> None:
        self._routes = routes
        self._control = control
        self._cache: dict[bytes, tuple[Add, str, bytes | None, int, int]] = {}
        self._parts: list[bytes] = []
        self._missing = 0
        self._line_length = 0
        self._complained = False

    def forget(self) -> None:
        """The routes have changed. Any thread."""
        self._cache.clear()

    def feed(self, data: bytes) -> None:
        """Parse the next bytes; ProtocolError when they break the protocol."""
        if self._missing:
            # A frame in the making is gathered and joined once: else large payloads cost their square.
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            self._missing = 0
            data = self._joined()
        elif self._parts:
            self._parts.append(data)
            self._line_length += len(data)
            if b"\n" not in data:
                self._check_line()
                return
            data = self._joined()
        self._parse(data)

    def _joined(self) -> bytes:
        data = b"".join(self._parts)
        self._parts = []
        return data

    def _parse(self, data: bytes) -> None:
        find, known, length, position = data.find, self._cache.get, len(data), 0
        while position < length:
            eol = find(b"\r\n", position)
            if eol < 0:
                self._keep_line(data[position:])
                return
            line = data[position:eol]
            entry = known(line) or self._operation(line)
            start = eol + 2
            if entry is None:
                position = start
                continue
            add, topic, reply, head, size = entry
            end = start + size
            if end + 2 > length:
                self._parts = [data[position:]]
                self._missing = end + 2 - length
                return
            if data[end : end + 2] != b"\r\n":
                raise ProtocolError(f"no end of line behind the payload of {line!r:.80}")
            if head:
                body = start + head
                block = data[start:body]
                if block[:8] != b"NATS/1.0":
                    block = self._mended(topic, block)
                add(topic, reply, block, data[body:end])
            else:
                add(topic, reply, None, data[start:end])
            position = end + 2

    def _mended(self, topic: str, block: bytes) -> bytes:
        """A header block that is none, which the server let pass: what is in it can be read."""
        if not self._complained:
            self._complained = True
            logger.warning("a message on %r has a header block that is none: %r", topic, block[:80])
        return b"%b\r\n%b" % (VERSION, block)

    def _keep_line(self, rest: bytes) -> None:
        self._parts = [rest]
        self._line_length = len(rest)
        self._check_line()

    def _check_line(self) -> None:
        first = self._parts[0]
        if b"\n" in first:
            raise ProtocolError(f"a line feed without a carriage return: {first!r:.80}")
        if self._line_length > MAX_LINE:
            raise ProtocolError(f"a line of more than {MAX_LINE} bytes: {first!r:.80}")

    def _operation(self, line: bytes) -> tuple[Add, str, bytes | None, int, int] | None:
        """What a line announces; None for a control line, which is handled here."""
        fields = line.split()
        if b" ".join(fields) != line:  # in 0.06 us; to look for each other kind of space takes 0.3 us
            fields = self._spaced(line)
        name = fields[0] if fields else b""
        if name == b"HMSG":
            if not 5 <= len(fields) <= 6:
                raise ProtocolError(f"bad line {line!r:.80}")
            return self._message(line, fields, fields.pop(-2))
        if name == b"MSG":
            if not 4 <= len(fields) <= 5:
                raise ProtocolError(f"bad line {line!r:.80}")
            return self._message(line, fields, b"0")
        self._control(line)
        return None

    @staticmethod
    def _spaced(line: bytes) -> list[bytes]:
        """The fields of a line that has more between them than one space each."""
        if b"\n" in line:  # as `_check_line`, which sees it where the line comes in pieces
            raise ProtocolError(f"a line feed without a carriage return: {line!r:.80}")
        return line.split() if _OTHER_SPACE.search(line) is None else re.split(rb"[ \t]+", line.strip(b" \t"))

    def _message(self, line: bytes, fields: list[bytes], head_field: bytes) -> tuple[Add, str, bytes | None, int, int]:
        """What a line announces: name, subject, sid, perhaps a reply, and the size of all."""
        digits = b"".join((fields[2], head_field, fields[-1]))
        if not digits.isdigit() or len(digits) > _MOST_DIGITS:
            raise ProtocolError(f"bad number in {line!r:.80}")
        head, size = int(head_field), int(fields[-1])
        if size > MAX_FRAME or head > size:
            raise ProtocolError(f"impossible sizes in {line!r:.80}")
        reply = fields[3] if len(fields) == 5 else None
        topic = fields[1].decode("utf-8", "replace")
        route = self._routes.get(int(fields[2]))
        if route is None:  # in flight when it was unsubscribed
            return _ignore, topic, reply, head, size
        entry = (route.adder(topic), topic, reply, head, size)
        if reply is None and route.cacheable:
            if len(self._cache) >= _CACHED_LINES:
                self._cache.clear()
            self._cache[line] = entry
        return entry


def _ignore(topic: str, reply: bytes | None, block: bytes | None, payload: bytes) -> None:
    """Nobody wants this message."""
