"""One live link to a NATS server: addresses, dialing, frames, threads."""
