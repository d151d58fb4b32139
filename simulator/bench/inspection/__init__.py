"""Benchmarks of the inspection loop."""
