"""With greenlets in the place of threads a bus runs, or says at once why not."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("gevent")

from eventbus.testing import NatsServer

PATCHED = "from gevent import monkey; monkey.patch_all()\n"
REPORT = """
import sys, time
import gevent
import eventbus

def refused(url):
    # How long each way to open takes to say no, and what it says.
    bus = eventbus.EventBus(url)
    for way in (bus.open, lambda: bus.open(wait=False), bus.__enter__):
        began = time.monotonic()
        try:
            way()
        except eventbus.UnsupportedError as error:
            print(time.monotonic() - began < 1.0, error)
"""


def program(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments]


def lines_of(code: str) -> list[str]:
    done = subprocess.run(program(code), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_kafka_says_at_once_that_its_client_waits_in_c() -> None:
    lines = lines_of(PATCHED + REPORT + "refused('kafka://127.0.0.1:1')")
    assert len(lines) == 3
    assert all(
        line.startswith("True bus: gevent has patched the standard library, and kafka's client waits in C")
        for line in lines
    )


@pytest.mark.parametrize("url", ["memory://greenlets", "nats://127.0.0.1:1"])
def test_what_was_imported_before_gevent_patched_says_so_at_once(url: str) -> None:
    lines = lines_of("import eventbus\n" + PATCHED + REPORT + f"refused({url!r})")
    assert len(lines) == 3
    assert all("patch_all() before the first import of eventbus" in line for line in lines)


def test_what_gevent_has_patched_in_part_says_so_at_once() -> None:
    lines = lines_of(f"from gevent import monkey; monkey.patch_all(thread=False)\n{REPORT}refused('memory://part')")
    assert len(lines) == 3
    assert all(line.endswith("patch_all() without exceptions, or not at all") for line in lines)


def test_where_gevent_is_imported_and_has_patched_nothing_a_bus_runs_on_threads() -> None:
    opened = "with eventbus.EventBus('kafka://127.0.0.1:1?connect_timeout=0.1') as bus: pass"
    done = subprocess.run(
        program(f"from gevent import monkey\nimport eventbus\n{opened}"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "ConnectFailedError" in done.stderr


def test_greenlets_that_publish_and_handle_take_turns() -> None:
    """While one waits for the broker the others go on."""
    lines = lines_of(
        PATCHED
        + REPORT
        + textwrap.dedent(
            """
            from eventbus.testing.memory import MemoryOutages

            handled, turns = set(), []

            def publish(number):
                for place in range(20):
                    assert bus.publish("t", f"{number}-{place}").confirmed

            def turn():
                while True:
                    turns.append(gevent.sleep(0.01))

            with eventbus.EventBus("memory://greenlets") as bus:
                bus.subscribe("t", lambda message: handled.add(message.text()), group="g", concurrency=4)
                gevent.joinall([gevent.spawn(publish, number) for number in range(10)], raise_error=True)
                other = gevent.spawn(turn)
                MemoryOutages("greenlets").freeze()
                try:
                    bus.publish("t", b"late", timeout=1.0)
                except eventbus.PublishUnknownError:
                    print(len(turns) > 10)
                MemoryOutages("greenlets").restore()
                assert bus.flush(5.0).unanswered == 0
                while len(handled) < 201:
                    gevent.sleep(0.01)
                other.kill()
            print(len(handled))
            """
        )
    )
    assert lines == ["True", "201"]


def test_a_bus_that_was_open_at_a_fork_is_final_in_the_child() -> None:
    """Its greenlets were forked with it: a second set of them would work beside those."""
    lines = lines_of(
        PATCHED
        + REPORT
        + textwrap.dedent(
            """
            import os

            bus = eventbus.EventBus("memory://forked")
            bus.open()
            child = os.fork()
            if not child:
                try:
                    bus.publish("t", b"x")
                except eventbus.ForkedError as error:
                    print(error, flush=True)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            print(bus.publish("t", b"x").confirmed, bus.close().unanswered)
            """
        )
    )
    assert "make and open a bus in the child" in lines[0]
    assert lines[1:] == ["True 0"]


@pytest.mark.nats
def test_a_nats_server_that_reads_no_more_holds_up_no_close(nats_server: NatsServer) -> None:
    """gevent's sockets wait in `send`, whatever its flags."""
    code = (
        PATCHED
        + REPORT
        + textwrap.dedent(
            """
            bus = eventbus.EventBus(sys.argv[1])
            bus.open()
            bus.publish("t", b"x")
            print("ready", flush=True)
            sys.stdin.readline()
            for _ in range(100):
                bus.publish_nowait("t", bytes(100_000))
            gevent.sleep(0.2)
            began = time.monotonic()
            print(bus.close(2.0), time.monotonic() - began < 3.0)
            """
        )
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(program(code, nats_server.url), text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        nats_server.freeze()
        try:
            said, errors = process.communicate("frozen\n", timeout=20.0)
        finally:
            nats_server.thaw()
    assert said == "CloseReport(unanswered=100, unhandled=0, unfinished_threads=(), handed_over=0) True\n", errors
