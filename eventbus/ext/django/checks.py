"""System checks: wrong settings and wrong subscribers are told by `manage.py check`, and before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from django.core.checks import CheckMessage, Error, Warning

from ... import BROADCAST, ConfigError, EventBus, MemoryConfig, SubscribeError, UnsupportedError, load_config, log
from .access import config_source
from .subscribers import subscribers

EXAMPLE = 'EVENTBUS = "nats://127.0.0.1:4222", or {"url": "kafka://a:9092,b:9092", "group": "shop"}'


def check_settings(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """Whether a bus can be made from the settings, and whether it takes all subscribers; asks no broker."""
    try:
        bus = EventBus(config_source())
    except ConfigError as error:
        return [Error(f"settings.EVENTBUS: {error}", hint=EXAMPLE, id="eventbus.E001")]
    return list(_wrong_subscribers(bus))


def check_deployment(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """Whether the broker is one that several processes share, and whether anybody hears what is logged."""
    found: list[CheckMessage] = []
    with suppress(ConfigError):  # the other check tells
        if isinstance(load_config(config_source()).backend, MemoryConfig):
            text = "settings.EVENTBUS: memory:// does not leave its process: consumers get nothing of web processes"
            found.append(Warning(text, hint=EXAMPLE, id="eventbus.W002"))
    if not log.get("eventbus").is_heard:
        text = "settings.LOGGING: nobody hears the logger 'eventbus', which tells of outages and of lost messages"
        found.append(Warning(text, hint='"root": {"handlers": ["console"]}, say', id="eventbus.W003"))
    return found


def _wrong_subscribers(bus: EventBus) -> Iterator[CheckMessage]:
    for one in subscribers():
        try:
            subscription = one.subscribe(bus)
        except (SubscribeError, UnsupportedError) as error:
            yield Error(f"@subscriber({one.topic!r}): {error}", obj=one.name, id="eventbus.E002")
            continue
        if subscription.group is None and one.options.get("group") is not BROADCAST:
            yield Warning(
                f"@subscriber({one.topic!r}) has no group: each consumer process gets a copy of each message from its "
                "start on, and what is published while none runs is lost to it",
                hint='group="...", or "group" in settings.EVENTBUS; group=eventbus.BROADCAST if that is what you want',
                obj=one.name,
                id="eventbus.W001",
            )
