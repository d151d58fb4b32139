"""Checks of the state directory and its disk."""
