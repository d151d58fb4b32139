"""Child processes: how they are run, their clients and their protocols; the limits that they set."""
