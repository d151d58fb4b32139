"""Bad brokers and bad networks."""
