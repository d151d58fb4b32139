"""The IPC server of the simulated nucleus and its wire format."""
