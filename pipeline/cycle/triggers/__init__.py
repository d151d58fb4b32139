"""Scheduled functions that trigger an improvement cycle."""
