"""The error tree: one root, typed branches, and every publish error carries its id."""

from __future__ import annotations

import builtins
import copy
import pickle
from collections.abc import Callable

import pytest

import eventbus
from eventbus import errors

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
PUBLIC = [kind for kind in ALL if hasattr(eventbus, kind.__name__)]

TREE = {
    "EventBusError": "Exception",
    "ConfigError": "EventBusError ValueError",
    "NotInitializedError": "EventBusError",
    "AlreadyInitializedError": "EventBusError",
    "ClosedError": "EventBusError",
    "ForkedError": "EventBusError",
    "UnsupportedError": "EventBusError",
    "NotConnectedError": "EventBusError",
    "ConnectFailedError": "EventBusError",
    "AuthenticationError": "ConnectFailedError",
    "PublishError": "EventBusError",
    "PublishRejectedError": "PublishError",
    "PublishNotSentError": "PublishError",
    "PublishUnknownError": "PublishError",
    "PublishManyError": "PublishError",
    "SubscribeError": "EventBusError",
    "ReadError": "EventBusError",
    "PurgeError": "EventBusError",
    "ReplayError": "EventBusError",
    "ReconnectExhaustedError": "EventBusError",
    "BatchError": "EventBusError",
    "HandlerTimeoutError": "EventBusError",
    "GuardError": "EventBusError",
    "Reject": "EventBusError",
    "RetryLater": "EventBusError",
}
"""Design section 3, word for word."""

RECEIPT = eventbus.Receipt(topic="t", id="a", confirmed=True, partition="orders", offset=7, duplicate=True)


def test_the_public_tree_is_the_design_s() -> None:
    assert {kind.__name__: " ".join(base.__name__ for base in kind.__bases__) for kind in PUBLIC} == TREE


def test_only_one_error_is_internal() -> None:
    assert [kind.__name__ for kind in ALL if kind not in PUBLIC] == ["SessionRetired"]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_an_event_bus_error_with_a_docstring(kind: type[Exception]) -> None:
    assert issubclass(kind, eventbus.EventBusError)
    assert kind.__doc__


def test_no_builtin_is_shadowed() -> None:
    assert not {kind.__name__ for kind in ALL} & set(dir(builtins))


def made(kind: type[Exception]) -> Exception:
    """One of this kind, with nothing left at its default."""
    if issubclass(kind, eventbus.PublishManyError):
        return kind("1 of 2", (RECEIPT, eventbus.PublishNotSentError("full", "id-2")))
    if issubclass(kind, eventbus.PublishError):
        return kind("no answer", "id-1")
    if kind is eventbus.ConnectFailedError:
        return kind("refused", server_spoke=True)
    if kind is eventbus.AuthenticationError:
        return kind("wrong password", server_spoke=False)
    if kind is eventbus.BatchError:
        return kind({3: ValueError("no")})
    if kind is eventbus.ReplayError:
        return kind("what went wrong", eventbus.ReplayReport(replayed=3))
    if kind is eventbus.RetryLater:
        return kind(2.5, "busy")
    return kind("what went wrong")


def flat(value: object) -> object:
    """Comparable: errors are equal only to themselves."""
    if isinstance(value, BaseException):
        return type(value), flat(value.args), {name: flat(inner) for name, inner in vars(value).items()}
    if isinstance(value, dict):
        return {name: flat(inner) for name, inner in value.items()}
    return tuple(flat(one) for one in value) if isinstance(value, (tuple, list)) else value


@pytest.mark.parametrize("again", [lambda one: pickle.loads(pickle.dumps(one)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", ALL)
def test_an_error_crosses_to_another_process_with_all_it_carries(
    kind: type[Exception], again: Callable[[Exception], Exception]
) -> None:
    error = made(kind)
    assert flat(again(error)) == flat(error)


@pytest.mark.parametrize("kind", [one for one in ALL if one not in (eventbus.RetryLater, eventbus.BatchError)])
def test_its_text_is_the_message_alone(kind: type[Exception]) -> None:
    error = made(kind)
    assert str(error) == error.args[0]


@pytest.mark.parametrize("kind", [kind for kind in PUBLIC if issubclass(kind, eventbus.PublishError)])
def test_every_publish_error_carries_the_id(kind: type[eventbus.PublishError]) -> None:
    error = made(kind)
    assert isinstance(error, eventbus.PublishError)
    assert error.id == ("id-2" if kind is eventbus.PublishManyError else "id-1")


def test_publish_many_carries_each_result_and_the_first_failed_id() -> None:
    failed = [eventbus.PublishNotSentError("full", "b"), eventbus.PublishUnknownError("no answer", "c")]
    error = eventbus.PublishManyError("2 of 3", [failed[0], RECEIPT, failed[1]])
    assert error.results == (failed[0], RECEIPT, failed[1])
    assert error.failed == tuple(failed)
    assert error.id == "b"
    assert eventbus.PublishManyError("none").id == ""


def test_authentication_means_the_server_spoke() -> None:
    assert eventbus.AuthenticationError("no").server_spoke
    assert not eventbus.ConnectFailedError("no").server_spoke
