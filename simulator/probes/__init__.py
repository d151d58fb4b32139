"""Independent observers of a line.

They report what reached the broker, what is missing, and what a slow consumer receives.
"""
