"""Independent observers of a line: what reached the broker, what is missing, what a slow consumer sees."""
