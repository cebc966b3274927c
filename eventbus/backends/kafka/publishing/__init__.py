"""Publishing to Kafka: one producer and every record that it has not answered."""
