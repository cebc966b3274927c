"""Who issues credentials for NATS servers: an operator, an account and its users, by JWT; and users by key."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

import nkeys

_UNLIMITED = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
_JETSTREAM = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)


def new_key(prefix: int = nkeys.PREFIX_BYTE_USER) -> nkeys.KeyPair:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), prefix))


def public(pair: nkeys.KeyPair) -> str:
    return pair.public_key.decode()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(issuer: nkeys.KeyPair, subject: str, name: str, nats: dict[str, Any], expires: float | None = None) -> str:
    """A JWT about `subject`; expires: in so many seconds."""
    now = int(time.time())
    claims = {"jti": name, "iat": now, "iss": public(issuer), "name": name, "sub": subject, "nats": nats}
    if expires is not None:
        claims["exp"] = int(time.time() + expires)
    head = _base64(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    body = f"{head}.{_base64(json.dumps(claims).encode())}"
    return f"{body}.{_base64(issuer.sign(body.encode()))}"


class Issuer:
    """One operator with one account. config: what its server is started with."""

    def __init__(self) -> None:
        operator, system = new_key(nkeys.PREFIX_BYTE_OPERATOR), new_key(nkeys.PREFIX_BYTE_ACCOUNT)
        self._account = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
        limits = {**_UNLIMITED, "wildcards": True}
        accounts = {
            public(one): signed(operator, public(one), name, {"type": "account", "version": 2, "limits": of})
            for one, name, of in ((system, "SYS", limits), (self._account, "APP", {**limits, **_JETSTREAM}))
        }
        top = {"type": "operator", "version": 2, "system_account": public(system)}
        self.config = "\n".join(
            (
                f"operator: {signed(operator, public(operator), 'OP', top)}",
                f"system_account: {public(system)}",
                "resolver: MEMORY",
                f"resolver_preload: {json.dumps(accounts)}",
            )
        )

    def jwt(self, user: nkeys.KeyPair, expires: float | None = None, **permissions: Any) -> str:
        """What lets a user in; expires: in so many seconds."""
        nats = {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, **permissions}
        return signed(self._account, public(user), "user", nats, expires)

    def creds(self, expires: float | None = None) -> str:
        """The content of a .creds file for a new user."""
        user = new_key()
        return (
            f"-----BEGIN NATS USER JWT-----\n{self.jwt(user, expires)}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
