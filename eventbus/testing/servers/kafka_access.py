"""Access rights at a Kafka test server: taken from a user, and given back."""

from __future__ import annotations

import struct
from functools import partial
from typing import Literal

from eventbus.testing.servers.kafka_wire import Answer, ask, string
from eventbus.testing.servers.process import ServerFailed
from eventbus.testing.wait import wait_until

Kind = Literal["topic", "group", "transactional_id"]
Operation = Literal["ALL", "READ", "WRITE", "CREATE", "DELETE", "ALTER", "DESCRIBE"]

_DESCRIBE_ACLS, _CREATE_ACLS, _DELETE_ACLS = 29, 30, 31
_VERSION = 1
_KINDS = {"topic": 2, "group": 3, "transactional_id": 5}
_OPERATIONS = {"ALL": 2, "READ": 3, "WRITE": 4, "CREATE": 5, "DELETE": 6, "ALTER": 7, "DESCRIBE": 8}
_LITERAL = 3
_DENY = 2
_ALLOW = 3
_ANSWER = 10.0


class Access:
    """Denies a user a topic or a group; everything that is not denied is allowed.

    Needs a server with ``acl=True``. What a method did is in force at every running broker when it
    returns. For any thread.
    """

    def __init__(self, addresses: list[tuple[str, int]]) -> None:
        """Take the address of each broker, past its security."""
        self.addresses = addresses

    def deny(self, user: str, name: str, *, kind: Kind = "topic", operation: Operation = "ALL") -> None:
        """Deny ``user`` an operation on one topic, group or transactional id.

        Raises:
            OSError: no answer within 10 seconds.
            ServerFailed: the broker refused.
            AssertionError: it is not in force everywhere within 10 seconds.
        """
        rule = _rule(user, name, kind, operation)
        # Where there is a rule, what no rule allows is denied, to everybody.
        for each in (_rule("*", name, kind, "ALL", _ALLOW), rule):
            self._change(_CREATE_ACLS, each)
            self._wait(each, there=True)

    def restore(self, user: str, name: str, *, kind: Kind = "topic", operation: Operation = "ALL") -> None:
        """Take back a :meth:`deny` of the same arguments; fine if there was none.

        Raises:
            OSError: no answer within 10 seconds.
            ServerFailed: the broker refused.
            AssertionError: it is not in force everywhere within 10 seconds.
        """
        rule = _rule(user, name, kind, operation)
        self._change(_DELETE_ACLS, rule)
        self._wait(rule, there=False)

    def _change(self, api: int, rule: bytes) -> None:
        answer = ask(self.addresses[0], api, _VERSION, struct.pack(">i", 1) + rule, _ANSWER)
        answer.int32(), answer.int32()
        _require_success(answer)

    def _wait(self, rule: bytes, *, there: bool) -> None:
        for address in self.addresses:
            in_force = partial(_is_known, address, rule, there)
            wait_until(in_force, _ANSWER, message=f"the access rule at {address}")


def _rule(user: str, name: str, kind: Kind, operation: Operation, permission: int = _DENY) -> bytes:
    """Return a rule; the protocol writes a filter for exactly this rule in the same way."""
    return b"".join(
        (
            struct.pack(">b", _KINDS[kind]),
            string(name),
            struct.pack(">b", _LITERAL),
            string(f"User:{user}"),
            string("*"),
            struct.pack(">bb", _OPERATIONS[operation], permission),
        )
    )


def _is_known(address: tuple[str, int], rule: bytes, wanted: bool) -> bool:
    answer = ask(address, _DESCRIBE_ACLS, _VERSION, rule, _ANSWER)
    answer.int32()
    _require_success(answer)
    return (answer.int32() > 0) is wanted


def _require_success(answer: Answer) -> None:
    error, text = answer.int16(), answer.string()
    if error:
        raise ServerFailed(f"the broker refused to change access rights: error {error} {text}")
