"""Real brokers for tests: each starts, is killed, frozen, thawed and restarted on loopback."""
