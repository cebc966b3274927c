"""`manage.py eventbus_consume` and `manage.py eventbus_dlq`."""
