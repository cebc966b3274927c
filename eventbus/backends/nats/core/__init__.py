"""Core NATS, and what JetStream has in common with it."""
