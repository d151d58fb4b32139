"""Comparing candidates with the champion on the same pictures."""
