"""Health views: `path("healthz/", include("eventbus.ext.django.urls"))` gives /healthz/live and /healthz/ready."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .. import health
from ..health import HealthReport
from .access import get_bus


def _live(request: HttpRequest) -> JsonResponse:
    """Whether this process can go on, whatever its broker does: 200, or 503 where only a restart would help."""
    return _response(health.live(get_bus()))


def _ready(request: HttpRequest) -> JsonResponse:
    """Whether the bus of this process is connected: 200, or 503 with how it stands."""
    return _response(health.ready(get_bus()))


def _response(report: HealthReport) -> JsonResponse:
    return JsonResponse(dict(report.body), status=report.status_code)


live = never_cache(require_safe(_live))
ready = never_cache(require_safe(_ready))
