"""Adapters, one vendor per file: cameras, inference runtimes, transports; none imports another."""
