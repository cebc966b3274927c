"""librdkafka's clients: their options, making and proving them, what their errors mean."""
