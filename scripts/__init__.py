"""What the people who change this project run: the demo, the bench, the soak."""
