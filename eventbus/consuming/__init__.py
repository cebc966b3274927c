"""Consuming: subscriptions, keyed lanes, and what is in hand."""
