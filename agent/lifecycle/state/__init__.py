"""State of the lifecycle: transitions, the journal and its record, and the pure rules that change the record."""
