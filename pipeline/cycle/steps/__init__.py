"""The steps of one improvement cycle."""
