"""The subcommands of the device wheel; each module has `main(argv) -> exit code`."""
