"""State of the lifecycle: transitions, journal and record, and the pure rules that change it."""
