"""The web side: an order and its message, or neither."""

import json

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from eventbus.ext.django import publish_on_commit

from .models import Order

CREDIT = 1000


class TooMuch(Exception):
    """A customer has no credit for this."""


@csrf_exempt
@require_POST
def order(request: HttpRequest) -> JsonResponse:
    """Take an order: 201 with its number, or 402 where it is too much."""
    wanted = json.loads(request.body)
    try:
        with transaction.atomic():
            made = Order.objects.create(customer=wanted["customer"], total=wanted["total"])
            publish_on_commit("orders.created", {"order": made.pk, "total": made.total}, key=made.customer)
            if made.total > CREDIT:
                raise TooMuch  # the order is rolled back, and nothing is published
    except TooMuch:
        return JsonResponse({"error": "no credit"}, status=402)
    return JsonResponse({"order": made.pk}, status=201)
