"""Simulated rollouts of releases whose quality is known."""
