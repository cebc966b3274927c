"""The consumer side: `manage.py eventbus_consume` runs it."""

from eventbus import Message, Reject
from eventbus.ext.django import subscriber

from .models import Bill


@subscriber("orders.*", group="billing", concurrency=4)
def bill(message: Message) -> None:
    """Bill an order; its message may come twice."""
    order = message.json()
    if order["total"] <= 0:
        raise Reject("there is nothing to bill")  # a dead letter: manage.py eventbus_dlq list
    Bill.objects.get_or_create(order=order["order"], defaults={"total": order["total"]})
