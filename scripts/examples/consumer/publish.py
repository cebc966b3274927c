"""Publish ten orders, two of them of a customer whom nobody knows."""

import eventbus

with eventbus.EventBus() as bus:  # the broker is EVENTBUS_URL
    for number in range(1, 11):
        customer = "eve" if number in (4, 8) else ("alice", "bob")[number % 2]
        receipt = bus.publish("orders.new", {"number": number, "customer": customer}, key=customer)
        print(f"order {number} is stored: {receipt.id}")
