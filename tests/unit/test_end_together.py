"""Several buses of one process end side by side, in the time of one."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

PROGRAM = """
import threading
import eventbus
from eventbus.testing.wait import wait_until
{prelude}

def hold(message):
    begun.append(message)
    while not threading.Event().wait(60.0):
        pass

begun, buses = [], []
for number in range(5):
    bus = eventbus.EventBus(f"memory://end-{{number}}?close_timeout={close_timeout}&name=bus-{{number}}")
    buses.append(bus)
    bus.subscribe("t", hold, group="g")
    bus.open()
    bus.publish("t", "x")
    {registered}
wait_until(lambda: len(begun) == 5)
print("ends", flush=True)
"""
CLOSE = 1.5
"""Seconds that the close of each bus takes: its handler does not return."""


@pytest.mark.parametrize(
    ("prelude", "registered", "told"),
    [
        ("", "", "bus-{}: the program ended without bus.close()"),
        (
            "from eventbus.ext.process import close_at_exit",
            "close_at_exit(bus)",
            "bus-{}: the process ends; 0 accepted",
        ),
    ],
    ids=["forgotten", "of a web process"],
)
def test_at_the_end_of_the_interpreter(prelude: str, registered: str, told: str) -> None:
    program = PROGRAM.format(prelude=prelude, registered=registered, close_timeout=CLOSE)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ends\n"
        began = time.monotonic()
        _, errors = process.communicate(timeout=60)
        took = time.monotonic() - began
    assert process.returncode == 0, errors
    for number in range(5):
        assert told.format(number) in errors
    assert took < 2.5 * CLOSE, errors
