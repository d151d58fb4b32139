"""What starts an improvement cycle."""
