"""Interrupted, by a signal that the system gives to a thread that does not wait: calls hear of it all the same."""

from __future__ import annotations

import pytest
from world_support import fresh, run_script

CALLS = [
    "bus.publish('t', b'x', timeout=20.0)",
    "bus.publish_many([eventbus.Message('t', b'x')], timeout=20.0)",
    "bus.publish_async('t', b'x').result(20.0)",
    "(bus.publish_nowait('t', b'x'), bus.flush(20.0))",
    "bus.reconnect(20.0)",
    "other.open(20.0)",
]


@pytest.mark.parametrize("call", CALLS)
def test_a_time_limit_ends_the_call(call: str) -> None:
    """Linux gives a signal to the main thread if it can; here it cannot, and nothing ends the main thread's wait."""
    done = run_script(
        """
        outages = MemoryOutages(sys.argv[1])
        bus = eventbus.EventBus(f"memory://{sys.argv[1]}")
        bus.open()
        other = eventbus.EventBus(f"memory://{sys.argv[1]}?name=other")
        outages.freeze()

        def limit(*of_signal):
            raise TimeoutError("the time limit")

        signal.signal(signal.SIGUSR1, limit)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

        def elsewhere():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGUSR1)

        threading.Thread(target=elsewhere).start()
        started = time.monotonic()
        try:
            eval(sys.argv[2])
        except TimeoutError as error:
            print(error, time.monotonic() - started < 5.0)
        outages.restore()
        bus.close(1.0)
        """,
        fresh("elsewhere"),
        call,
    )
    assert (done.returncode, done.stdout) == (0, "the time limit True\n"), done.stderr
