"""Health views: `path("healthz/", include("eventbus.ext.django.urls"))` gives /healthz/live and /healthz/ready."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ... import EventBus
from .. import health
from .access import get_bus


def _live(request: HttpRequest) -> JsonResponse:
    """Whether this process answers: 200. It needs no bus: one that was closed is made anew when it is used."""
    return JsonResponse({"status": "live"})


def _ready(request: HttpRequest) -> JsonResponse:
    """Whether the bus of this process is connected: 200, or 503; the JSON says how it stands (`health.ready`)."""
    report = health.ready(_tried(get_bus()))
    return JsonResponse(dict(report.body), status=report.status_code)


def _tried(bus: EventBus) -> EventBus:
    """A bus that this question has just made gets the time of a probe: a worker is not away for being new."""
    state = bus.get_connection_state()
    if state.last_connected_time is None and state.last_error is None:
        bus.wait_connected(bus.config.health_check.timeout)
    return bus


live = never_cache(require_safe(_live))
ready = never_cache(require_safe(_ready))
