"""JetStream: streams, durables, pulls, publishes that are answered."""
