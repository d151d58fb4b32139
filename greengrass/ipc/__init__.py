"""IPC with the nucleus: the connection, and the transport of verdicts and shadow documents over it."""
