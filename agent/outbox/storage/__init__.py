"""What the outbox keeps on disk: the message log, its recovery, the history, and the disk reserve."""
