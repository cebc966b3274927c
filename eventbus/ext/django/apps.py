"""What Django does with the app when it starts: checks are registered, `events.py` of all apps are imported."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.core.signals import setting_changed as setting_changed_signal
from django.utils.module_loading import autodiscover_modules

from . import access
from .checks import check_deployment, check_settings


class EventBusAppConfig(AppConfig):  # type: ignore[misc]
    """The app `eventbus`. It connects to nothing: that is left to the first use of the bus."""

    name = "eventbus.ext.django"
    label = "eventbus"
    verbose_name = "Event bus"

    def ready(self) -> None:
        """Register the checks, and find the subscribers."""
        checks.register(check_settings, "eventbus")
        checks.register(check_deployment, "eventbus", deploy=True)
        setting_changed_signal.connect(access.setting_changed)
        autodiscover_modules("events")
