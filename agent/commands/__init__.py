"""Subcommands of `kensa` in the device wheel; each module has `main(argv) -> exit code`."""
