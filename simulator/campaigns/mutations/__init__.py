"""Seeded damage to metadata, JSON and models."""
