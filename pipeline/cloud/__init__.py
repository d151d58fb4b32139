"""What the commands of the cloud side share: how they are found, and how they reach an account."""
