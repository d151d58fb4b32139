"""Benchmarks of the way from a verdict to the broker."""
