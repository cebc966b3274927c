"""How fast the bus is, as ratios against nats-py: `python -m scripts.bench`."""
