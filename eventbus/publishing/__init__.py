"""Publishing: what was accepted and is not answered yet, in order and bounded."""
