"""The command `kensa doctor` and its checks."""
