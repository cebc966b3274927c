"""Recovery: health, the phases, and the one place that knows how to reconnect."""
