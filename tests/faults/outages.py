"""The outage suite: one base class for every backend, driven through `drivers.Driver`."""

from __future__ import annotations

from outages_calls import BoundedCallOutages
from outages_reading import ReadingOutages
from outages_recovery import RecoveryOutages
from outages_subscriptions import SubscriptionOutages


class OutageSuite(RecoveryOutages, SubscriptionOutages, BoundedCallOutages, ReadingOutages):
    """Subclass it per backend: name the backend, make a driver, say which cases it cannot show and why."""
