"""A day of line time in minutes, with faults of every kind."""
