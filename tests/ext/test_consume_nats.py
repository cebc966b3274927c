"""`eventbus consume` on a real nats-server: every way in which such a process is asked to end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from consume_support import QUICK, START, Process, Program, consume

from eventbus import EventBus, stop_signals
from eventbus.testing import NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(90)]

ACK_WAIT = 2.0
"""Seconds after which the server gives a message to another process."""


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def url(nats_server: NatsServer) -> str:
    return f"{nats_server.url}?ack_wait={ACK_WAIT:g}"


def publish(url: str, *texts: str) -> None:
    with EventBus(url) as bus:
        for text in texts:
            bus.publish("orders.new", text)


def pause(seconds: float) -> None:
    """So long something lasts; nothing is synchronised by it."""
    subprocess.run(["sleep", str(seconds)], check=True)


def test_a_handler_that_runs_is_finished_and_acknowledged(program: Program, url: str) -> None:
    publish(url, "1")
    with consume(program, "hold", url) as process:
        wait_until(lambda: program.seen() == ["begins 1"], START)
        process.send()
        process.wait_said("SIGTERM: closing")
        program.release()
        assert process.end() == 0, process.text
        last = process.records()[-1]
    assert (last["handled"], last["unhandled"], last["unfinished_threads"]) == (1, 0, [])
    with consume(program, "handle", url) as process:
        pause(1.5 * ACK_WAIT)  # if it were to come again it would now
        publish(url, "2")
        wait_until(lambda: program.handled()["2"] == 1)
        process.send()
        assert process.end() == 0, process.text
    assert program.handled() == {"1": 1, "2": 1}


def test_what_no_handler_was_started_for_is_handed_over_and_nothing_is_left_unfinished(
    program: Program, url: str
) -> None:
    texts = [str(number) for number in range(6)]
    publish(url, *texts)
    with consume(program, "hold", url, "--close-timeout", "6") as process:
        wait_until(lambda: program.seen() == ["begins 0"], START)
        process.send()
        process.wait_said("SIGTERM: closing")
        pause(3.5)  # behind the half of it no handler is started any more
        program.release()
        assert process.end() == 0, process.text
        last = process.records()[-1]
    assert (last["handled"], last["unhandled"], last["handed_over"]) == (1, 5, 5)
    assert (last["level"], last["unfinished_threads"]) == ("INFO", [])
    assert "5 messages that no handler was started for go to others" in last["message"]
    with consume(program, "handle", url):
        wait_until(lambda: program.handled() == dict.fromkeys(texts, 1), START)


def test_a_stuck_handler_costs_the_close_timeout_and_is_named(program: Program, url: str) -> None:
    publish(url, "1")
    with consume(program, "hold", url, "--close-timeout", "1") as process:
        wait_until(lambda: program.seen() == ["begins 1"], START)
        begun = time.monotonic()
        process.send()
        assert process.end(10.0) == 1, process.text
        assert time.monotonic() - begun < 1.0 + QUICK
        last = process.records()[-1]
    assert last["unhandled"] == 1
    assert any("lane-orders.new" in name for name in last["unfinished_threads"])
    assert "left are 1 messages in hand" in last["message"]
    program.release()
    with consume(program, "handle", url):
        wait_until(lambda: program.handled() == {"1": 1}, START + ACK_WAIT)


def test_a_second_signal_leaves_at_once(program: Program, url: str) -> None:
    publish(url, "1")
    with consume(program, "hold", url) as process:
        wait_until(lambda: program.seen() == ["begins 1"], START)
        process.send()
        process.wait_said("SIGTERM: closing")
        pause(2 * stop_signals.TWIN)
        begun = time.monotonic()
        process.send()
        assert process.end() == 1, process.text
        assert time.monotonic() - begun < QUICK
        last = process.records()[-1]
    assert last["unhandled"] == 1
    assert any("lane-orders.new" in name for name in last["unfinished_threads"])


def test_the_same_signal_twice_at_once_drains(program: Program, url: str) -> None:
    publish(url, "1")
    with consume(program, "hold", url) as process:
        wait_until(lambda: program.seen() == ["begins 1"], START)
        process.send()
        process.send()
        process.wait_said("SIGTERM: closing")
        program.release()
        assert process.end() == 0, process.text
    assert program.handled() == {"1": 1}


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_an_end_without_the_broker(program: Program, nats_server: NatsServer, how: str) -> None:
    publish(nats_server.url, "1")
    with consume(program, "handle", nats_server.url) as process:
        wait_until(lambda: program.handled() == {"1": 1}, START)
        getattr(nats_server, how)()
        if how == "kill":
            process.wait_said('"phase": "reconnecting"')
        process.send()
        process.end(10.0 + QUICK)
        assert process.records()[-1]["unhandled"] == 0


def test_an_end_while_it_connects_for_the_first_time(program: Program) -> None:
    with consume(program, "handle", "nats://127.0.0.1:1") as process:
        process.wait_said('"phase": "reconnecting"')
        process.send()
        assert process.end() == 0, process.text


def test_it_waits_for_a_broker_that_comes_later(program: Program, nats_server: NatsServer) -> None:
    nats_server.kill()
    with consume(program, "handle", nats_server.url) as process:
        process.wait_said('"phase": "reconnecting"')
        nats_server.start()
        publish(nats_server.url, "1")
        wait_until(lambda: program.handled() == {"1": 1}, START)
        process.send()
        assert process.end() == 0, process.text


def test_no_message_twice_and_none_lost_across_a_clean_end(program: Program, url: str) -> None:
    texts = [str(number) for number in range(4000)]
    for part in range(4):  # so that the last one has something to do, too
        with EventBus(url) as bus:
            for text in texts[part * 1000 : part * 1000 + 1000]:
                bus.publish_nowait("orders.new", text)
            assert bus.flush().unanswered == 0
        if part == 3:
            break
        before = program.handled().total()
        with consume(program, "handle", f"{url}&prefetch=100", "--concurrency", "4") as process:
            wait_until(lambda: program.handled().total() > before + 200, START)  # noqa: B023
            process.send()
            assert process.end(20.0) == 0, process.text
    with consume(program, "handle", url, "--concurrency", "4") as process:
        wait_until(lambda: len(program.handled()) == len(texts), START)
        pause(1.5 * ACK_WAIT)
        process.send()
        assert process.end() == 0, process.text
    assert program.handled() == dict.fromkeys(texts, 1)


def test_as_a_child_of_timeout(program: Program, url: str) -> None:
    """It sends its signal to the child, and then to the whole group, itself and the child included."""
    publish(url, "1")
    with consume(program, "hold", url, before=["timeout", "60"], start_new_session=True) as process:
        wait_until(lambda: program.seen() == ["begins 1"], START)
        process.send()
        process.wait_said("SIGTERM: closing")
        program.release()
        assert process.end() == 0, process.text
        assert process.records()[-1]["message"] == "closed: all that was in hand is handled"


def test_as_a_background_job_of_a_shell_that_is_signalled_with_it(program: Program, url: str) -> None:
    """Where there is no job control it has its jobs ignore SIGINT."""
    publish(url, "1")
    before = ["sh", "-c", '"$@" & wait', "sh"]
    with consume(program, "hold", url, before=before, start_new_session=True) as process:
        wait_until(lambda: program.seen() == ["begins 1"], START)
        os.killpg(process.pid, signal.SIGINT)
        assert process.process.wait(QUICK) == -signal.SIGINT, "the shell"
        os.killpg(process.pid, signal.SIGTERM)
        process.wait_said("SIGTERM: closing")
        program.release()
        process.wait_said("closed: all that was in hand is handled")
    assert program.handled() == {"1": 1}


@pytest.mark.skipif(shutil.which("unshare") is None, reason="not applicable: no unshare")
def test_as_the_first_process_of_a_container(program: Program, url: str) -> None:
    """Process 1 gets no signal that it has no handler for."""
    allowed = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip("not applicable: this user may make no namespaces")
    program.write("note(f'process {os.getpid()}')\n")
    publish(url, "1")
    before = ["unshare", "--pid", "--fork", "--kill-child"]
    with consume(program, "hold", url, before=before) as process:
        wait_until(lambda: program.seen() == ["process 1", "begins 1"], START)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        os.kill(int(children[0]), signal.SIGTERM)
        process.wait_said("SIGTERM: closing")
        program.release()
        assert process.end() == 0, process.text
    assert program.handled()["1"] == 1


@pytest.mark.parametrize("closed", ["stderr", "stdout"])
def test_nobody_reads_what_it_says(program: Program, url: str, closed: str) -> None:
    """Messages are still to be handled: a log collector that dies must not take the workers with it."""
    publish(url, "1")
    read, write = os.pipe()
    with consume(program, "handle", url, "--interval", "0.1", **{closed: write}) as process:  # type: ignore[arg-type]
        os.close(write)
        wait_until(lambda: program.handled() == {"1": 1}, START)
        os.close(read)
        publish(url, "2")
        wait_until(lambda: program.handled() == {"1": 1, "2": 1}, START)
        process.send()
        assert process.end() == 0, process.text


def test_a_reader_that_is_stuck_holds_up_nobody(program: Program, url: str) -> None:
    read, write = os.pipe()
    with consume(program, "handle", url, "--interval", "0.01", "--log-level", "debug", stderr=write) as process:
        os.close(write)
        publish(url, "1")
        wait_until(lambda: program.handled() == {"1": 1}, START)
        pause(3.0)  # the pipe is full after some hundred lines
        publish(url, "2")
        wait_until(lambda: program.handled() == {"1": 1, "2": 1}, START)
        process.send()
        assert process.end() == 0
    os.close(read)


def test_a_signal_before_there_is_a_bus_ends_it_at_once(program: Program) -> None:
    program.write("note('loading')\nwait_until(lambda: False, 60.0)\n")
    for number in (signal.SIGTERM, signal.SIGINT):
        with consume(program, "handle", "nats://127.0.0.1:1") as process:
            wait_until(lambda: program.seen()[-1:] == ["loading"], START)
            process.send(number)
            assert process.end() == 128 + number, process.text
        (program.folder / "seen").unlink()


def test_a_bus_with_its_own_subscriptions(program: Program, url: str) -> None:
    program.write(
        f"""
        import eventbus
        bus = eventbus.EventBus("{url}&group=shop")
        bus.on("orders.*")(handle)
        """
    )
    publish(url, "1")
    with Process(program, "consume", "program:bus") as process:
        wait_until(lambda: program.handled() == {"1": 1}, START)
        process.send()
        assert process.end() == 0, process.text
    with Process(program, "consume", "program:bus", "--group", "other") as process:
        assert process.end(START) == 2
        assert "--group: program:bus is a bus" in process.text


def test_a_handler_that_closes_the_bus_ends_it(program: Program, url: str) -> None:
    program.write(
        f"""
        import eventbus
        bus = eventbus.EventBus("{url}&group=shop")

        @bus.on("orders.*")
        def last(message):
            note(message.text())
            bus.close()
        """
    )
    publish(url, "1")
    with Process(program, "consume", "program:bus") as process:
        assert process.end(START) == 0, process.text
    publish(url, "2")
    with Process(program, "consume", "program:bus") as process:
        assert process.end(START) == 0, process.text
    assert program.handled() == {"1": 1, "2": 1}


def test_batches_and_reports(program: Program, url: str) -> None:
    program.write(
        """
        def many(batch):
            note(f"batch of {len(batch)}")
        """
    )
    publish(url, *(str(number) for number in range(10)))
    words = ("--batch", "5", "0.2", "--interval", "0.1", "--ordered")
    with consume(program, "many", url, *words) as process:
        wait_until(lambda: sum(int(one.split()[-1]) for one in program.seen()) == 10, START)
        wait_until(lambda: any(one.get("handled") == 10 for one in process.records()))
        report = next(one for one in process.records() if one.get("handled") == 10)
        assert {"time", "level", "rate", "in_hand", "lag", "phase", "healthy", "not_served"} <= report.keys()
        process.send()
        assert process.end() == 0, process.text


def test_threads_of_the_program_do_not_hold_up_the_end(program: Program, url: str) -> None:
    """Python waits at its end for threads that are no daemons: not where the time to close was used up."""
    program.write(
        """
        def hold_too(message):
            threading.Thread(target=hold, args=(message,), daemon=False).start()
            hold(message)
        """
    )
    publish(url, "1")
    with consume(program, "hold_too", url, "--close-timeout", "0.5") as process:
        wait_until(lambda: program.seen() == ["begins 1"] * 2, START)
        process.send()
        assert process.end(10.0) == 1, process.text


def test_a_handler_that_sends_the_signal_itself(program: Program, url: str) -> None:
    """To its own thread, so that nothing wakes the main one."""
    program.write(
        """
        import signal
        def last(message):
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            note(message.text())
        """
    )
    publish(url, "1")
    with consume(program, "last", url) as process:
        assert process.end(START) == 0, process.text
    assert program.handled() == {"1": 1}


def test_the_program_ends_by_itself_or_cannot_be_loaded(program: Program, url: str) -> None:
    program.write("import not_there_at_all\n")
    with consume(program, "handle", url) as process:
        assert process.end(START) == 1
        assert "No module named 'not_there_at_all'" in process.text
    program.write("raise SystemExit(7)\n")
    with consume(program, "handle", url) as process:
        assert process.end(START) == 7


def test_without_an_output_at_all(program: Program, url: str) -> None:
    publish(url, "1")
    with consume(program, "show", url, before=["sh", "-c", 'exec "$@" >&- 2>&-', "sh"]) as process:
        wait_until(lambda: program.handled() == {"1": 1}, START)
        process.send()
        assert process.end() == 0
