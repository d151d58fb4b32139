"""Stores candidates with their history."""
