"""What JetStream answers to a publish, and what is to be done about it."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any, NamedTuple

from . import wire

_STORED = re.compile(rb'\{"stream":"([^"\\]+)", ?"seq":(\d{1,19})(, ?"duplicate":true)?\}')
_AGAIN = {10007, 10008, 10009, 10039, 10118}
_FULL = {10023, 10028, 10047, 10077}


class Verdict(Enum):
    """STORED: done. AGAIN, FULL: send it again, soon or later. REFUSED: never. NOISE: no answer at all."""

    STORED = "stored"
    AGAIN = "again"
    FULL = "full"
    REFUSED = "refused"
    NOISE = "noise"


class PubAck(NamedTuple):
    """One answer. stream, sequence and duplicate are set when stored; text says why not."""

    verdict: Verdict
    stream: str = ""
    sequence: int = 0
    duplicate: bool = False
    text: str = ""


def parse_ack(block: bytes | None, payload: bytes) -> PubAck:
    """Read an answer; never raises."""
    match = _STORED.fullmatch(payload)
    if match is not None:
        stream, sequence, duplicate = match.groups()
        return PubAck(Verdict.STORED, stream.decode("utf-8", "replace"), int(sequence), duplicate is not None)
    status, text = wire.status_of(block)
    if status == 503:
        return PubAck(Verdict.AGAIN, text=text or "no stream answers")
    try:
        answer = json.loads(payload)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        return PubAck(Verdict.NOISE, text=f"{payload!r:.60}")
    return _judge(answer)


def _judge(answer: dict[str, Any]) -> PubAck:
    error = answer.get("error")
    if isinstance(error, dict):
        code, number = (value if isinstance(value, int) else 0 for value in map(error.get, ("code", "err_code")))
        text = f"{error.get('description') or 'refused'} ({number})"
        if number in _FULL:
            return PubAck(Verdict.FULL, text=text)
        if number in _AGAIN or not 400 <= code < 500:
            return PubAck(Verdict.AGAIN, text=text)
        return PubAck(Verdict.REFUSED, text=text)
    stream, sequence = answer.get("stream"), answer.get("seq")
    if isinstance(stream, str) and isinstance(sequence, int):
        return PubAck(Verdict.STORED, stream, sequence, bool(answer.get("duplicate")))
    return PubAck(Verdict.NOISE, text=f"{answer!r:.60}")
