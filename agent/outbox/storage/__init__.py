"""The outbox's files: the message store and its recovery, the history, and the disk reserve."""
