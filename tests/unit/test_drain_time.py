"""A close that has more in hand than time lets go of what no handler was started for, and cuts nobody off."""

import threading

from eventbus import EventBus, Message
from eventbus.testing.wait import wait_until


def test_a_close_stops_starting_handlers_in_time_for_those_that_run() -> None:
    bus, ended = EventBus("memory://drain?close_timeout=2"), threading.Event()
    begun, done = list[str](), list[str]()

    def slow(message: Message) -> None:
        begun.append(message.id)
        ended.wait(0.3)
        done.append(message.id)

    with bus:
        bus.subscribe("t", slow, group="g", concurrency=2)
        bus.publish_many([Message("t", "x") for _ in range(100)])
        wait_until(lambda: len(begun) >= 2)
        report = bus.close()
    assert report.unfinished_threads == ()
    assert sorted(begun) == sorted(done), "a handler was running when the bus had ended"
    assert report.unhandled == 100 - len(done)
    assert len(done) > 2, "what is in hand is worked at for a while"


def test_a_handler_that_runs_has_all_of_the_time() -> None:
    bus, begun, done = EventBus("memory://drain-one?close_timeout=2"), threading.Event(), list[str]()

    def slow(message: Message) -> None:
        begun.set()
        threading.Event().wait(0.9)
        done.append(message.id)

    with bus:
        bus.subscribe("t", slow, group="g")
        bus.publish("t", "x")
        assert begun.wait(5.0)
        report = bus.close()
    assert (report.unhandled, report.unfinished_threads, len(done)) == (0, (), 1)


def test_a_broadcast_copy_which_nobody_gets_again_is_worked_at_to_the_end() -> None:
    bus, done = EventBus("memory://drain-copy?close_timeout=3"), list[str]()

    def slow(message: Message) -> None:
        threading.Event().wait(0.1)
        done.append(message.id)

    with bus:
        bus.subscribe("t", slow)
        bus.publish_many([Message("t", "x", key="k") for _ in range(13)])
        wait_until(lambda: bool(done))
        report = bus.close()
    assert (report.unhandled, len(done)) == (0, 13)
