"""Flask: a bus for each application, made from `app.config["EVENTBUS_..."]`. See docs/flask.rst::

    events = FlaskEventBus()

    @events.on("orders.*", group="billing")
    def bill(message): ...                              # in an application context

    events.init_app(app)                                # in a factory; or FlaskEventBus(app)
    events.bus.publish("orders.new", {"total": 42})     # in a view
    app.register_blueprint(health)                      # /healthz/live and /healthz/ready

Nothing is connected at import time. A process opens the bus at its first request or readiness check, or when it uses
`events.bus` for the first time, and does not wait for the broker then. So each worker of gunicorn has a connection of
its own, with `--preload` and without.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint, Flask, Response, current_app, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import ServiceUnavailable

from .. import (
    AlreadyInitializedError,
    EventBus,
    PublishError,
    PublishManyError,
    PublishNotSentError,
    PublishUnknownError,
    SubscribeError,
    log,
)
from ..callables import check_plain, refuse_bare
from ..consuming.subscriptions import BatchHandler, Handler
from .flask_app_bus import NAME, AppBus, Registered, Settings, app_bus
from .flask_commands import commands
from .health import HealthReport, live, ready
from .process import wait_first_attempt

__all__ = ["AppBus", "FlaskEventBus", "app_bus", "health", "unavailable"]

logger = log.get(__name__)

_Handler = TypeVar("_Handler", bound=Handler | BatchHandler)


class FlaskEventBus:
    """The buses of Flask applications: each that `init_app` is called with has one of its own.

    handle_in_web: whether processes that serve requests call the handlers; False leaves that to `flask eventbus
    consume`. All others, as those of other commands and shells, publish only.
    ready_needs_subscriptions, stalled_after: for `/healthz/ready`, see `eventbus.ext.health.ready`.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        handle_in_web: bool = True,
        ready_needs_subscriptions: bool = False,
        stalled_after: float | None = None,
    ) -> None:
        self._settings = Settings(
            handle_in_web=handle_in_web,
            ready_needs_subscriptions=ready_needs_subscriptions,
            stalled_after=stalled_after,
        )
        self._registered: list[Registered] = []
        self._apps: weakref.WeakSet[AppBus] = weakref.WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Make the application's bus, without connecting it, and join the two.

        ConfigError: something is wrong in `app.config`. SubscribeError: a handler was registered with wrong options.
        AlreadyInitializedError: the application has a bus.
        """
        if NAME in app.extensions:
            raise AlreadyInitializedError(f"{app.name} has an event bus: call init_app() once for each application")
        own = AppBus(app, self._settings)
        for one in self._registered:
            own.register(one)
        self._apps.add(own)
        app.extensions[NAME] = own
        app.before_request(_serve)
        for kind in (PublishNotSentError, PublishUnknownError, PublishManyError):
            app.register_error_handler(kind, unavailable)
        app.cli.add_command(commands)

    @property
    def bus(self) -> EventBus:
        """The bus of the current application, open, though it may be connecting still: publishing waits then.

        RuntimeError outside of an application context, NotInitializedError without `init_app`.
        """
        return app_bus().opened()

    def subscribe(self, topic: str, handler: Handler | BatchHandler, **options: Any) -> None:
        """Have all applications subscribe a handler, those to come included; with the options of `EventBus.subscribe`.

        Each call of the handler has an application context of its own. SubscribeError: the handler is no plain
        function; where there is an application already, something else is wrong.
        """
        try:
            check_plain(handler, "handler", takes=1)
        except ValueError as error:
            raise SubscribeError(str(error)) from error
        one = Registered(topic, handler, options)
        for own in list(self._apps):
            own.register(one)
        self._registered.append(one)

    def on(self, topic: str, **options: Any) -> Callable[[_Handler], _Handler]:
        """`subscribe` as a decorator, with the same options."""
        refuse_bare(topic, "on")

        def decorate(handler: _Handler) -> _Handler:
            self.subscribe(topic, handler, **options)
            return handler

        return decorate


def unavailable(error: PublishError) -> ResponseReturnValue:
    """Answer 503 with Retry-After where a view could not publish for now; `init_app` registers it.

    For PublishNotSentError, PublishUnknownError, and a PublishManyError of nothing else; one with a rejected message in
    it goes on as the error that it is. The application's own page for 503 is shown where it has one: the handler of
    ServiceUnavailable finds the publish error as `__cause__`. The response has no text of the error, which may name
    brokers; that is logged. A handler that you register for one of these errors behind `init_app` replaces it.
    """
    failed = error.failed if isinstance(error, PublishManyError) else (error,)
    if not all(isinstance(one, (PublishNotSentError, PublishUnknownError)) for one in failed):
        raise error
    bus = app_bus().bus
    logger.warning("%s: %s %r is answered with 503: %s", bus.config.name, request.method, request.path, error)
    known = isinstance(error, PublishNotSentError)
    answer = ServiceUnavailable(
        f"{'Nothing was published' if known else 'It is not known what was published'}. Please try again later.",
        retry_after=math.ceil(bus.config.health_check.interval),  # by then the broker has been asked once more
    )
    answer.__cause__ = error
    return current_app.handle_http_exception(answer)


health = Blueprint("eventbus_health", __name__, url_prefix="/healthz")
"""The checks `/healthz/live` and `/healthz/ready`, for `app.register_blueprint`; what they answer: docs/flask.rst."""


@health.get("/live")
def _live() -> Response:
    return _answer(live(app_bus().bus))


@health.get("/ready")
def _ready() -> Response:
    own = app_bus()
    wait_first_attempt(own.bus)
    needs, stalled_after = own.settings.ready_needs_subscriptions, own.settings.stalled_after
    return _answer(ready(own.bus, needs_subscriptions=needs, stalled_after=stalled_after))


def _answer(report: HealthReport) -> Response:
    response = jsonify(report.body)
    response.status_code = report.status_code
    response.cache_control.no_store = True
    return response


def _serve() -> None:
    if current_app.view_functions.get(request.endpoint or "") is not _live:  # that one fails for no bus
        app_bus().serve()
