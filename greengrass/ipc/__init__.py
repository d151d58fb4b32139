"""The IPC connection to the nucleus, and the transport of verdicts over it."""
