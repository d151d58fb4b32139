"""Benchmarks of the path from a verdict to the broker."""
