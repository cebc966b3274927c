"""Consuming from Kafka: consumers, each on a thread of its own, and what is in hand of each partition."""
