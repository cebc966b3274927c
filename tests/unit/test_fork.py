"""Fork: a child never uses what its parent opened, and never mints what its parent mints."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

NOTHING_LEFT = "CloseReport(unanswered=0, unhandled=0, unfinished_threads=(), handed_over=0)"
PRELUDE = """
import logging, os, sys, threading, time, warnings
import eventbus
from eventbus import ClosedError, ForkedError, Message
from eventbus.testing.memory import MemoryOutages

warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of threads and fork

def in_child(call):
    \"\"\"What call() returns in a forked child, as text; the child ends with it.\"\"\"
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        try:
            text = str(call())
        except BaseException as error:
            text = f"raised {type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with open(reader, closefd=True) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return text

def error_of(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "nothing was raised"
"""


def run(code: str) -> list[str]:
    """The lines that the code prints in a process of its own, which must end well and in silence."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


CALLS = [
    "bus.open()",
    "bus.open(wait=False)",
    "bus.publish('t', b'x')",
    "bus.publish_async('t', b'x')",
    "bus.publish_nowait('t', b'x')",
    "bus.publish_many([Message('t', b'x')])",
    "bus.flush()",
    "bus.subscribe('t', id)",
    "bus.start_health_check()",
    "bus.reconnect()",
    "bus.__enter__()",
]


def test_with_raise_every_verb_of_an_open_bus_raises_forked_error_in_the_child_and_works_on_in_the_parent() -> None:
    lines = run(
        f"""
        bus = eventbus.EventBus("memory://fork?on_fork=raise")
        bus.open()
        bus.publish_nowait("t", b"known topic")
        calls = {CALLS!r}
        print(in_child(lambda: [error_of(lambda: eval(call)) for call in calls]))
        print(in_child(lambda: bus.publish("t", b"x")))
        print(bus.publish("t", b"x").confirmed, bus.flush().unanswered, bus.get_connection_state().is_connected)
        print(bus.close())
        """
    )
    assert lines[0] == str(["ForkedError"] * len(CALLS))
    assert lines[1].startswith("raised ForkedError: bus: what was opened or begun before os.fork() belongs to")
    assert "make and open a bus in the child, or begin anew with on_fork 'reopen'" in lines[1]
    assert lines[2:] == ["True 0 True", NOTHING_LEFT]


def test_closing_in_the_child_is_harmless_to_the_parent_who_goes_on_publishing_and_handling() -> None:
    lines = run(
        """
        handled = threading.Semaphore(0)
        bus = eventbus.EventBus("memory://fork")
        bus.subscribe("t", lambda message: handled.release(), group="g")
        bus.open()
        print(in_child(lambda: [bus.close(1.0).unanswered, bus.close().unfinished_threads, bus.stop_health_check(1.0)]))
        print(bus.publish("t", b"x").confirmed, handled.acquire(timeout=5.0), bus.get_health_status().is_running)
        print(bus.close().unfinished_threads)
        """
    )
    assert lines == ["[0, (), True]", "True True True", "()"]


def test_with_raise_the_child_s_copy_stays_shut_after_a_close_and_the_status_calls_go_on() -> None:
    lines = run(
        """
        bus = eventbus.EventBus("memory://fork?on_fork=raise")
        bus.open()
        def look():
            bus.close()
            bus.get_connection_state(), bus.get_health_status(), bus.get_reconnect_status(), bus.get_statistics()
            return error_of(lambda: bus.publish("t", b"x")), error_of(bus.open), bool(repr(bus))
        print(in_child(look))
        bus.close()
        """
    )
    assert lines == ["('ForkedError', 'ForkedError', True)"]


def test_a_child_can_make_a_bus_of_its_own() -> None:
    lines = run(
        """
        bus = eventbus.EventBus("memory://fork")
        bus.open()
        def work():
            got = threading.Semaphore(0)
            with eventbus.EventBus("memory://child") as own:
                own.subscribe("t", lambda message: got.release(), group="g")
                return own.publish("t", b"x").confirmed, got.acquire(timeout=5.0)
        print(in_child(work))
        bus.close()
        """
    )
    assert lines == ["(True, True)"]


def test_a_child_that_is_forked_while_other_threads_are_busy_with_the_bus_does_not_hang() -> None:
    """Whatever lock a thread of the parent held at that moment is held for ever in the child."""
    lines = run(
        """
        bus = eventbus.EventBus("memory://fork")
        bus.open()
        stop = threading.Event()
        def hammer():
            while not stop.is_set():
                bus.publish("t", b"x")
                bus.get_statistics(), bus.get_connection_state()
        threads = [threading.Thread(target=hammer) for _ in range(3)]
        for thread in threads:
            thread.start()
        print({in_child(lambda: (bus.publish("t", b"x").confirmed, bus.close(1.0))) for _ in range(10)})
        stop.set()
        for thread in threads:
            thread.join()
        print(bus.close().unanswered)
        """
    )
    assert lines == [f"{{'(True, {NOTHING_LEFT})'}}", "0"]


def test_two_buses_never_mint_the_same_id_in_one_process_or_in_two() -> None:
    lines = run(
        """
        def ids(name):
            with eventbus.EventBus("memory://" + name) as bus:
                return [bus.publish("t", b"x").id for _ in range(100)]
        here = ids("a") + ids("b")
        there = [one for name in "cd" for one in eval(in_child(lambda: ids(name)))]
        print(len(here), len(there), len(set(here + there)))
        """
    )
    assert lines == ["200 200 400"]


def test_a_bus_made_before_the_fork_and_opened_after_it_mints_ids_of_its_own() -> None:
    """As gunicorn --preload does it: else the workers' messages are each other's duplicates, and are lost."""
    lines = run(
        """
        bus = eventbus.EventBus("memory://fork")  # at import, in the master
        def work():
            bus.open()
            return [bus.publish("t", b"x").id for _ in range(10)]
        ids = [one for worker in range(3) for one in eval(in_child(work))]
        bus.open()
        ids += [bus.publish("t", b"x").id for _ in range(10)]
        print(len(ids), len(set(ids)))
        bus.close()
        """
    )
    assert lines == ["40 40"]


def test_a_child_may_initialize_a_global_bus_again_until_it_has_used_the_parent_s() -> None:
    lines = run(
        """
        parents = eventbus.initialize_from_config("memory://fork")
        def work():
            own = eventbus.initialize_from_config("memory://child")
            again = error_of(lambda: eventbus.initialize_from_config("memory://child"))
            confirmed = eventbus.get_global().publish("t", b"x").confirmed
            return own is not parents, confirmed, again, eventbus.close_global().unanswered
        def use():
            used = eventbus.get_global() is parents, parents.publish("t", b"x").confirmed
            return *used, error_of(lambda: eventbus.initialize_from_config("memory://child")), eventbus.close_global()
        print(in_child(work))
        print(in_child(use))
        print(in_child(lambda: (eventbus.close_global(), error_of(eventbus.get_global))[1]))
        print(eventbus.get_global() is parents, parents.publish("t", b"x").confirmed)
        eventbus.close_global()
        """
    )
    assert lines == [
        "(True, True, 'AlreadyInitializedError', 0)",
        f"(True, True, 'AlreadyInitializedError', {NOTHING_LEFT})",
        "NotInitializedError",
        "True True",
    ]


def test_a_child_forked_while_the_global_bus_is_being_opened_may_open_its_own() -> None:
    lines = run(
        """
        import eventbus.globals as module
        outages = MemoryOutages("fork")
        outages.freeze()
        opening = threading.Thread(target=eventbus.initialize_from_config, args=({"url": "memory://fork"},))
        opening.start()
        while module._last().bus is None:
            threading.Event().wait(0.001)
        print(in_child(lambda: eventbus.initialize_from_config("memory://child").publish("t", b"x").confirmed))
        outages.restore()
        opening.join()
        print(eventbus.get_global().publish("t", b"x").confirmed)
        eventbus.close_global()
        """
    )
    assert lines == ["True", "True"]


def test_in_the_child_whoever_waits_for_an_answer_is_told_and_the_parent_still_gets_it() -> None:
    lines = run(
        """
        outages = MemoryOutages("fork-futures")
        bus = eventbus.EventBus("memory://fork-futures")
        bus.open()
        done = bus.publish_async("t", b"x")
        done.result(5.0)
        outages.freeze()
        called = []
        given, kept = bus.publish_async("t", b"x"), bus.publish_async("t", b"x", id="mine")
        for future in (given, kept):
            future.add_done_callback(lambda future: called.append(os.getpid()))

        def look():
            from concurrent.futures import wait
            told = [error_of(lambda: future.result()) for future in (given, kept)]
            told += [type(future.exception(1.0)).__name__ for future in (given, kept)]
            left = wait([given, kept], 5.0).not_done
            late = []
            kept.add_done_callback(late.append)
            bus.close()
            return told, given.cancel(), given.done(), len(left), called, len(late), done.result().confirmed

        print(in_child(look))
        print(in_child(lambda: given.result()))
        outages.restore()
        print(given.result(5.0).confirmed, kept.result(5.0).id, bus.close().unanswered, len(called))
        """
    )
    assert lines[0] == str((["ForkedError"] * 4, False, True, 0, [], 1, True))
    assert lines[1].startswith("raised ForkedError: bus: what was opened or begun before os.fork() belongs to")
    assert lines[2] == "True mine 0 2"


def test_a_signal_handler_that_forks_on_top_of_a_call_that_waits_lets_it_go_on_in_the_child() -> None:
    lines = run(
        """
        import signal
        outages = MemoryOutages("fork-waits")
        bus = eventbus.EventBus({"url": "memory://fork-waits", "max_in_flight": 10})
        bus.open()
        bus.publish("t", b"x")
        outages.freeze()
        messages = [Message("t", b"x")] * 3
        full = [Message("t", b"x")] * 11
        for call in ("bus.publish('t', b'x', timeout=9)", "bus.publish_many(messages, timeout=9)",
                     "(bus.publish_nowait('t', b'x'), bus.flush(9))",
                     "bus.publish_many(full, timeout=9)", "bus.publish_async('t', b'x').result(9)"):
            children = []

            def fork(*of_signal):
                children.append(os.fork())
                if not children[-1]:
                    children.clear()
                else:
                    outages.restore()

            signal.signal(signal.SIGALRM, fork)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            started = time.monotonic()
            error = error_of(lambda: eval(call))
            if not children:
                os._exit(7 if (error, time.monotonic() - started < 4.0) == ("ForkedError", True) else 8)
            print(error, os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
            outages.freeze()
        outages.restore()
        bus.close()
        """
    )
    assert lines == ["nothing was raised 7"] * 5


@pytest.mark.parametrize("end", ["return", "raise SystemExit(1)"])
@pytest.mark.parametrize("fails_first", [False, True])
def test_a_child_that_comes_back_from_the_handler_ends(end: str, fails_first: bool) -> None:
    lines = run(f"""
        bus = eventbus.EventBus("memory://"); bus.open()
        parent, handled, failed = os.getpid(), [], []

        def handler(message):
            if os.getpid() != parent:
                print("a handler was started in a child", flush=True)
                os._exit(1)
            if {fails_first} and message.text() not in failed:
                failed.append(message.text())
                raise ValueError
            child = os.fork()
            if not child:
                {end}
            handled.append(child)

        logging.disable()
        sub = bus.subscribe("t", handler, group="g")
        for number in range(3):
            bus.publish("t", str(number), key="k")
        deadline = time.monotonic() + 10.0
        while len(handled) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        for child in handled:
            while os.waitpid(child, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
                if time.monotonic() > deadline:
                    print("a child lives on", flush=True)
                    os.kill(child, 9)
                    os.waitpid(child, 0)
                    break
        while sub.status().lag and time.monotonic() < deadline:
            time.sleep(0.01)
        print(len(handled), sub.status().lag, bus.close(5.0).unhandled)
    """)
    assert lines == ["3 0 0"]


# -- on_fork="reopen" ----------------------------------------------------------------------------


@pytest.mark.parametrize("call", [*CALLS, "bus.wait_connected(5.0)", "bus.read('t')", "bus.list_dead_letters()"])
def test_whatever_is_called_first_opens_the_child_s_copy(call: str) -> None:
    lines = run(
        f"""
        bus = eventbus.EventBus("memory://fork")
        bus.open()
        def work():
            before = bus.get_connection_state().phase.name
            error = error_of(lambda: eval({call!r}))
            connected = bus.wait_connected(5.0), bus.get_health_status().is_running
            return before, error, connected, bus.publish("t", b"x").confirmed, bus.close().unanswered
        print(in_child(work))
        print(bus.publish("t", b"x").confirmed, bus.get_connection_state().reconnect_count)
        print(bus.close())
        """
    )
    error = "ReadError" if "read" in call else "nothing was raised"
    assert lines == [
        f"('FORKED', '{error}', (True, True), True, 0)",
        "True 0",
        NOTHING_LEFT,
    ]


def test_a_status_opens_nothing_and_starts_no_thread_in_the_child() -> None:
    lines = run(
        """
        bus = eventbus.EventBus("memory://fork")
        bus.open()
        bus.subscribe("t", print, group="g")
        def look():
            bus.get_health_status(), bus.get_reconnect_status(), bus.get_statistics(), repr(bus)
            return bus.get_connection_state().phase.name, threading.active_count(), bus.stop_health_check()
        print(in_child(look))
        bus.close()
        """
    )
    assert lines == ["('FORKED', 1, True)"]


def test_the_child_has_new_counters_and_ids_and_the_same_callbacks_and_middleware() -> None:
    lines = run(
        """
        bus = eventbus.EventBus("memory://fork")
        told, passed = [], []
        bus.register_state_callback(lambda state: told.append((os.getpid(), state.phase.name)))
        bus.use(publish=lambda message, call_next: (passed.append(os.getpid()), call_next(message))[1])
        bus.open()
        parents = {bus.publish("t", b"x").id for _ in range(5)}
        def work():
            told.clear(), passed.clear()
            ids = {bus.publish("t", b"x").id for _ in range(7)}
            bus.publish_nowait("t", b"x")
            count = bus.get_statistics().published
            bus.close()
            return len(ids & parents), count, passed == [os.getpid()] * 8, {pid for pid, _ in told} == {os.getpid()}, [
                phase for _, phase in told]
        print(in_child(work))
        print(bus.get_statistics().published, {pid for pid, _ in told} == {os.getpid()})
        bus.close()
        """
    )
    assert lines == ["(0, 8, True, True, ['CONNECTING', 'RECONNECTING', 'CONNECTED', 'CLOSED'])", "5 True"]


def test_only_subscriptions_that_are_made_for_children_are_theirs() -> None:
    lines = run(
        """
        bus = eventbus.EventBus("memory://fork")
        got = []
        def note(message):
            got.append((os.getpid(), message.topic))
        mine = bus.subscribe("mine", note, group="g")
        ours = bus.subscribe("ours", note, group="g", in_children=True)
        bus.open()
        def work():
            got.clear()
            early = mine.state.name, type(mine.error).__name__
            for topic in ("mine", "ours"):
                bus.publish(topic, b"x")
            deadline = time.monotonic() + 5.0
            while not got and time.monotonic() < deadline:
                time.sleep(0.01)
            state = ours.status().state.name
            ended = bus.unsubscribe(mine), bus.unsubscribe(ours)
            bus.close()
            return early, state, got == [(os.getpid(), "ours")], ended
        print(in_child(work))
        print(in_child(lambda: in_child(work)))
        print(mine.state.name, ours.state.name, bus.close().unfinished_threads)
        """
    )
    assert lines == ["(('CLOSED', 'ForkedError'), 'ACTIVE', True, (True, True))"] * 2 + ["ACTIVE ACTIVE ()"]


def test_a_child_with_subscriptions_opens_by_itself() -> None:
    lines = run(
        """
        bus = eventbus.EventBus("memory://fork")
        bus.open()
        bus.subscribe("t", print, group="g", in_children=True)
        def work():
            deadline = time.monotonic() + 5.0
            while not bus.get_connection_state().is_connected and time.monotonic() < deadline:
                time.sleep(0.01)
            return bus.get_connection_state().is_connected, bus.close().unfinished_threads
        print(in_child(work))
        bus.close()
        """
    )
    assert lines == ["(True, ())"]


def test_subscriptions_of_a_bus_that_was_not_open_are_the_child_s_as_they_are() -> None:
    """As gunicorn --preload has them: made at import, in the master."""
    lines = run(
        """
        bus = eventbus.EventBus("memory://fork")
        got = threading.Semaphore(0)
        sub = bus.subscribe("t", lambda message: got.release(), group="g")
        sub.pause()
        def work():
            bus.open()
            bus.publish("t", b"x")
            paused = sub.status().paused, got.acquire(timeout=0.1)
            sub.resume()
            return paused, got.acquire(timeout=5.0), sub.state.name, bus.close().unfinished_threads
        print(in_child(work), in_child(work))
        """
    )
    assert lines == ["((True, False), True, 'ACTIVE', ()) ((True, False), True, 'ACTIVE', ())"]


def test_a_closed_bus_is_closed_in_the_child_too() -> None:
    lines = run(
        """
        bus = eventbus.EventBus("memory://fork")
        bus.open()
        bus.subscribe("t", print, group="g", in_children=True)
        bus.close()
        def work():
            return error_of(lambda: bus.publish("t", b"x")), bus.close(), bus.get_connection_state().phase
        print(in_child(work))
        """
    )
    assert lines == [f"('ClosedError', {NOTHING_LEFT}, <Phase.CLOSED: 'closed'>)"]


@pytest.mark.parametrize("on_outage", ["wait", "raise"])
def test_many_threads_may_be_the_first_to_use_it(on_outage: str) -> None:
    lines = run(
        f"""
        bus = eventbus.EventBus("memory://fork?on_outage={on_outage}")
        bus.open()
        def work():
            start, results = threading.Barrier(8), []
            def publish():
                start.wait()
                results.append(error_of(lambda: bus.publish("t", b"x")))
            threads = [threading.Thread(target=publish) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return set(results), len(results), bus.close().unfinished_threads
        print({{in_child(work) for _ in range(10)}})
        bus.close()
        """
    )
    assert lines == ["""{"({'nothing was raised'}, 8, ())"}"""]


def test_while_the_broker_is_down_a_child_waits_as_long_as_it_is_told_and_recovers() -> None:
    lines = run(
        """
        bus = eventbus.EventBus("memory://fork")
        bus.open()
        def work():
            outages = MemoryOutages("fork")
            outages.refuse()
            started = time.monotonic()
            error = error_of(lambda: bus.publish("t", b"x", timeout=0.3))
            in_time = time.monotonic() - started < 2.0
            outages.restore()
            return error, in_time, bus.publish("t", b"x").confirmed, bus.close().unanswered
        print(in_child(work))
        bus.close()
        """
    )
    assert lines == ["('PublishNotSentError', True, True, 0)"]


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(start_method: str, tmp_path: Path) -> None:
    """A forked child has the parent's bus; the others import the module anew, and have one of their own."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import multiprocessing, pickle, sys, warnings
            warnings.simplefilter("ignore", DeprecationWarning)
            import eventbus
            bus = eventbus.EventBus("memory://fork")

            def work(number):
                with bus:
                    return bus.publish("t", str(number)).id

            if __name__ == "__main__":
                bus.open()
                parents = bus.publish("t", b"x").id
                with multiprocessing.get_context(sys.argv[1]).Pool(2, maxtasksperchild=1) as pool:
                    ids = pool.map(work, range(4), chunksize=1)
                print(len({parents, *ids}))
                try:
                    pickle.dumps(bus)
                except TypeError as error:
                    print(error)
                bus.close()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(program), start_method], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "5"
    assert "cannot be pickled" in done.stdout and "bus.config" in done.stdout


def test_a_program_that_makes_itself_a_daemon() -> None:
    lines = run(
        """
        bus = eventbus.EventBus("memory://fork")
        bus.open()
        def second():
            os.setsid()
            return in_child(lambda: (bus.publish("t", b"x").confirmed, bus.close().unfinished_threads))
        print(in_child(second))
        bus.close()
        """
    )
    assert lines == ["(True, ())"]


def test_a_child_of_a_program_in_c_that_forks_past_pythons_hooks_mints_ids_of_its_own() -> None:
    """As uWSGI does by default: JetStream would take what two workers publish under one id for one message."""
    lines = run(
        """
        import ctypes

        bus = eventbus.EventBus("memory://fork")

        def publish():
            with bus:
                return bus.publish("t", b"x").id

        forked, os.fork = os.fork, ctypes.PyDLL(None).fork
        children = [in_child(publish) for _ in range(2)]
        os.fork = forked
        print(*children, publish())
        """
    )
    assert len(set(lines[0].split())) == 3, lines


def test_a_child_that_a_log_handler_has_forked_may_wait_for_its_publishes() -> None:
    """In the log handler itself nothing waits, for recovery may wait for that handler; in the child it is its own."""
    lines = run(
        """
        told = []

        class Forking(logging.Handler):
            def emit(self, record):
                if not told:
                    told.append("")
                    told[0] = in_child(lambda: bus.publish("t", b"x", timeout=5.0).confirmed)

        bus = eventbus.EventBus("memory://fork")
        bus.open()
        logging.getLogger("eventbus").addHandler(Forking())
        logging.getLogger("eventbus").setLevel(logging.INFO)
        bus.reconnect()
        print(told, bus.close().unfinished_threads)
        """
    )
    assert lines == ["['True'] ()"]


@pytest.mark.parametrize(
    "call",
    [
        "bus.publish_nowait('t', b'x')",
        "bus.publish('t', b'x', timeout=0.2)",
        "bus.publish_async('t', b'x', timeout=0.2)",
        "bus.flush(0.2)",
        "bus.wait_connected(0.2)",
    ],
)
@pytest.mark.parametrize("on_outage", ["wait", "raise"])
def test_the_first_call_waits_no_longer_than_it_may(call: str, on_outage: str) -> None:
    lines = run(
        f"""
        bus = eventbus.EventBus("memory://fork?on_outage={on_outage}&connect_timeout=10")
        bus.open()
        def work():
            outages = MemoryOutages("fork")
            outages.freeze()
            started = time.monotonic()
            error_of(lambda: {call})
            took = time.monotonic() - started
            outages.restore()
            return took if took > 2.0 else "in time", bus.wait_connected(5.0), bus.publish("t", b"x").confirmed
        print(in_child(work))
        bus.close()
        """
    )
    assert lines == ["('in time', True, True)"]


def test_what_fails_for_one_bus_or_is_interrupted_there_leaves_no_other_one_as_the_parent_has_it() -> None:
    lines = run(
        """
        import _thread
        logging.disable()

        class TimeLimit(BaseException):
            pass

        def out_of_threads(*of_thread):
            raise RuntimeError("can't start new thread")

        buses = [eventbus.EventBus("memory://fork") for _ in range(3)]
        for bus in buses:
            bus.open()
            bus.subscribe("t", print, group="g", in_children=True)
        interrupted, wire = [], eventbus.EventBus._wire

        def interrupted_once(self, wiring):
            if not interrupted:
                interrupted.append(self)
                raise TimeLimit
            wire(self, wiring)

        def phases():
            return [bus.get_connection_state().phase.name for bus in buses]

        start, _thread.start_new_thread = _thread.start_new_thread, out_of_threads
        print(in_child(phases))
        _thread.start_new_thread = start
        sys.unraisablehook = lambda unraisable: None
        eventbus.EventBus._wire = interrupted_once
        print(in_child(lambda: (phases().count("CONNECTED") and threading.active_count() == 1, len(interrupted))))
        eventbus.EventBus._wire = wire
        for bus in buses:
            bus.close()
        """
    )
    assert lines == ["['FORKED', 'FORKED', 'FORKED']", "(0, 1)"]


def test_no_log_handler_is_called_in_the_hook_where_it_may_meet_any_lock() -> None:
    lines = run(
        """
        parent, called = os.getpid(), []

        class Noting(logging.Handler):
            def emit(self, record):
                if os.getpid() != parent:
                    called.append(record.getMessage())

        logging.getLogger("eventbus").addHandler(Noting())
        logging.getLogger("eventbus").setLevel(logging.DEBUG)
        buses = [eventbus.EventBus("memory://fork"), eventbus.EventBus("nats://127.0.0.1:1")]
        for bus in buses:
            for topic in ("t", "dlq.>"):
                bus.subscribe(topic, print, group="g")
                bus.subscribe(topic, print, group=None)
        print(in_child(lambda: called))
        """
    )
    assert lines == ["[]"]


def test_what_begins_in_one_bus_finds_the_others_begun() -> None:
    lines = run(
        """
        buses = [eventbus.EventBus("memory://fork") for _ in range(20)]
        told = []

        def publish_on_all(state):
            if state.phase.name == "CONNECTED":
                told.append([error_of(lambda: bus.publish("t", b"x", timeout=5.0)) for bus in buses])

        for bus in buses:
            bus.open()
            bus.subscribe("t", lambda message: None, group="g", in_children=True)

        def look():
            deadline = time.monotonic() + 10.0
            while len(told) < len(buses) and time.monotonic() < deadline:
                time.sleep(0.01)
            return len(told), set(sum(told, []))

        for bus in buses:
            bus.register_state_callback(publish_on_all)
        sys.setswitchinterval(1e-6)
        print(in_child(look))
        for bus in buses:
            bus.close()
        """
    )
    assert lines == ["(20, {'nothing was raised'})"]


def test_deduplication_in_memory_goes_on_in_the_child_without_the_parent_s_claims_and_locks() -> None:
    """A handler of the parent that runs is none of the child's, which would put its message off for ever."""
    lines = run(
        """
        from eventbus.deduplication import MemoryStore, deduplicate
        store = MemoryStore()
        once = deduplicate(store)
        handled = []
        running, go_on = threading.Event(), threading.Event()

        def handler(message):
            if os.getpid() == parent:
                running.set()
                go_on.wait()
            handled.append(message.id)

        def work():
            once(Message("t", b"x", id="running"), handler)
            once(Message("t", b"x", id="done"), handler)
            once(Message("t", b"x", id="new"), handler)
            return handled

        parent = os.getpid()
        once(Message("t", b"x", id="done"), lambda message: None)
        threading.Thread(target=once, args=(Message("t", b"x", id="running"), handler)).start()
        running.wait()
        with store._lock, once._lock:  # as a lane may hold them at that moment
            print(in_child(work))
        go_on.set()
        """
    )
    assert lines == ["['running', 'new']"]
