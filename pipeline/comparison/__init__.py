"""Compares candidates with the champion on the same images."""
