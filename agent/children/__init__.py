"""The parent side of every child process: its environment, its protocol, its client."""
