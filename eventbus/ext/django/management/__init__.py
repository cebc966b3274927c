"""What `manage.py` gets from the app."""
