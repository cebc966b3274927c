"""The error tree: one root, typed branches, and every publish error carries its id."""

from __future__ import annotations

import pickle

import pytest

import eventbus
from eventbus import errors

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_an_event_bus_error_with_a_docstring(kind: type[Exception]) -> None:
    assert issubclass(kind, eventbus.EventBusError)
    assert kind.__doc__


def test_the_branches() -> None:
    assert issubclass(eventbus.ConfigError, ValueError)
    assert issubclass(eventbus.AuthenticationError, eventbus.ConnectFailedError)
    for kind in ("PublishRejectedError", "PublishNotSentError", "PublishUnknownError", "PublishManyError"):
        assert issubclass(getattr(eventbus, kind), eventbus.PublishError)


def test_no_builtin_is_shadowed() -> None:
    import builtins

    assert not {kind.__name__ for kind in ALL} & set(dir(builtins))


@pytest.mark.parametrize(
    "error",
    [
        eventbus.PublishUnknownError("no answer", "id-1"),
        eventbus.ConnectFailedError("refused", server_spoke=True),
        eventbus.AuthenticationError("wrong password"),
        eventbus.PublishManyError("1 of 2", [eventbus.PublishNotSentError("full", "id-2")]),
    ],
)
def test_errors_read_well_and_cross_processes(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == error.args[0]
    public = {name: value for name, value in vars(error).items() if name not in ("results", "failed")}
    assert {name: getattr(again, name) for name in public} == public


def test_publish_many_carries_each_result_and_the_first_failed_id() -> None:
    receipt = eventbus.Receipt(topic="t", id="a", confirmed=True)
    failed = eventbus.PublishNotSentError("full", "b")
    error = eventbus.PublishManyError("1 of 2", [receipt, failed])
    assert error.results == (receipt, failed)
    assert error.failed == (failed,)
    assert error.id == "b"


def test_authentication_means_the_server_spoke() -> None:
    assert eventbus.AuthenticationError("no").server_spoke
    assert not eventbus.ConnectFailedError("no").server_spoke
