"""Tokens for a Kafka test server that asks for OAUTHBEARER."""

from __future__ import annotations

import base64
import json
import time


def unsecured_token(principal: str, lifetime: float = 300.0, **claims: object) -> str:
    """Return a JWT that nobody has signed, valid from now on for ``lifetime`` seconds.

    A test server with ``mechanism="OAUTHBEARER"`` takes it: Kafka's default, for tests only. ``claims``: more
    of them, or others in the place of ``sub``, ``iat`` and ``exp``.
    """
    now = time.time()
    body = {"sub": principal, "iat": now, "exp": now + lifetime, **claims}
    return f"{_part({'alg': 'none'})}.{_part(body)}."


def _part(content: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
