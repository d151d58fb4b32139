"""Checks of the source of new releases."""
