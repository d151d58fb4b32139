"""The IPC operations that the simulated nucleus answers."""
