"""Checks of the machine, which need no configuration."""
