"""Watching the machine and the line: loss accounting, metrics, drift."""
