"""What the lifecycle knows and keeps on disk: states, transitions, journal, and the record."""
