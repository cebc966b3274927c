"""A worker that sends bills: what fails is tried again, what nobody can bill becomes a dead letter.

Run it with `python -m eventbus consume billing:bus`.
"""

from pathlib import Path

import eventbus

CUSTOMERS = Path(__file__).with_name("customers.txt")

bus = eventbus.EventBus(
    {
        "group": "billing",
        "retry": eventbus.RetryConfig(max_attempts=3, initial_backoff=0.2),
        "close_timeout": 8.0,  # less than the 10 s that docker gives a container to end
    }
)


@bus.on("orders.*", concurrency=4)
def bill(message: eventbus.Message) -> None:
    """Send one bill."""
    order = message.json()
    if order["customer"] not in CUSTOMERS.read_text(encoding="utf-8").split():
        raise eventbus.Reject(f"nobody knows {order['customer']}")
    if order["number"] % 5 == 0 and message.attempt == 1:
        raise ConnectionError("the payment provider is away")
    print(f"billed order {order['number']} for {order['customer']}", flush=True)
