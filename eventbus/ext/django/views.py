"""Health views: `path("healthz/", include("eventbus.ext.django.urls"))` gives /healthz/live and /healthz/ready."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .. import health, process
from .access import get_bus


def _live(request: HttpRequest) -> JsonResponse:
    """Whether this process answers: 200. It needs no bus: one that was closed is made anew when it is used."""
    return JsonResponse({"status": "live"})


def _ready(request: HttpRequest) -> JsonResponse:
    """Whether the bus of this process is connected: 200, or 503; the JSON says how it stands (`health.ready`)."""
    bus = get_bus()
    process.wait_first_attempt(bus)
    report = health.ready(bus)
    return JsonResponse(dict(report.body), status=report.status_code)


live = never_cache(require_safe(_live))
ready = never_cache(require_safe(_ready))
