"""Doubles for the life of a release: repository, models, bad releases, and a harness."""
