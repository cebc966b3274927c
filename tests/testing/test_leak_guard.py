"""The guard catches a thread, a descriptor and an unseen error, and nothing else."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from eventbus.testing import LeakGuard


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    """An event that ends the threads of a test."""
    event = threading.Event()
    yield event
    event.set()


def run(name: str, event: threading.Event) -> threading.Thread:
    """Start a thread that ends with the event."""
    thread = threading.Thread(target=event.wait, args=(20.0,), name=name, daemon=True)
    thread.start()
    return thread


def test_nothing_left_behind_is_fine() -> None:
    with LeakGuard(grace=0.0), socket.create_server(("127.0.0.1", 0)):
        pass


def test_a_leaked_thread_is_named_with_what_it_does(stop: threading.Event) -> None:
    with (
        pytest.raises(AssertionError, match=r"(?s)thread eventbus\.reader at.*wait"),
        LeakGuard(grace=0.05),
    ):
        run("eventbus.reader", stop)


def test_threads_of_others_and_of_before_do_not_count(stop: threading.Event) -> None:
    run("eventbus.before", stop)
    with LeakGuard(grace=0.05):
        run("somebody else", stop)


def test_a_thread_that_ends_in_time_is_fine(stop: threading.Event) -> None:
    with LeakGuard(grace=5.0):
        run("eventbus.slow", stop)
        timer = threading.Timer(0.1, stop.set)
        timer.start()
    timer.join(5.0)


def test_a_leaked_socket_is_named_with_its_addresses() -> None:
    leaked: list[socket.socket] = []
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    with (
        server,
        pytest.raises(AssertionError, match=rf"fd \d+ -> socket:\[\d+\] .*to \('127.0.0.1', {port}"),
        LeakGuard(grace=0.05),
    ):
        leaked.append(socket.create_connection(("127.0.0.1", port)))
    leaked[0].close()


def test_a_leaked_pipe_is_named() -> None:
    ends: list[int] = []
    with pytest.raises(AssertionError, match=r"fd \d+ -> pipe:"), LeakGuard(grace=0.05):
        ends += os.pipe()
    for end in ends:
        os.close(end)


def test_a_descriptor_in_a_dropped_cycle_is_collected() -> None:
    class Holder:
        def __init__(self) -> None:
            self.me = self
            self.fd = os.dup(0)

        def __del__(self) -> None:
            os.close(self.fd)

    with LeakGuard(grace=1.0):
        Holder()


def test_an_unhandled_error_is_shown_with_its_thread_and_place() -> None:
    def explode() -> None:
        raise LookupError("boom")

    with pytest.raises(AssertionError, match=r"(?s)in thread eventbus\.bad.*explode.*boom"):  # noqa: SIM117
        with LeakGuard(grace=5.0):
            thread = threading.Thread(target=explode, name="eventbus.bad")
            thread.start()
            thread.join(5.0)


def test_a_provoked_error_can_be_cleared() -> None:
    with LeakGuard(grace=0.0) as guard:
        thread = threading.Thread(target=lambda: 1 // 0, name="x")
        thread.start()
        thread.join(5.0)
        assert "ZeroDivisionError" in guard.errors[0]
        guard.errors.clear()


def test_the_hook_is_put_back_and_system_exit_is_no_error() -> None:
    before = threading.excepthook
    with LeakGuard(grace=0.0):
        assert threading.excepthook is not before
        thread = threading.Thread(target=exit, name="x")
        thread.start()
        thread.join(5.0)
    assert threading.excepthook is before


def test_the_error_of_the_block_comes_first(stop: threading.Event) -> None:
    with pytest.raises(ZeroDivisionError), LeakGuard(grace=0.0):
        run("eventbus.left", stop)
        raise ZeroDivisionError
