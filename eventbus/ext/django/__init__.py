"""The bus of a Django project: `INSTALLED_APPS += ["eventbus.ext.django"]`, and `EVENTBUS` in its settings.

Web processes publish: `get_bus().publish(...)`, or `publish_on_commit(...)` inside of a transaction. Handlers are
functions in the `events.py` of an app, under `@subscriber("orders.*", group="billing")`; `manage.py eventbus_consume`
runs them, in processes of its own. Nothing connects before the bus is used. See docs/django.rst.
"""

from .access import bus_made, get_bus
from .on_commit import publish_on_commit
from .subscribers import subscriber

__all__ = ["bus_made", "get_bus", "publish_on_commit", "subscriber"]
