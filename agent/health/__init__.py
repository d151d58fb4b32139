"""Health of the process and the line: snapshots, heartbeats, process usage and memory."""
