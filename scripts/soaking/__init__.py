"""What the parts of the soak are made of."""
