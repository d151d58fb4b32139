"""One vendor per file: cameras, inference runtimes, transports. Adapters never import each other."""
