"""Clock, rate limits and back-off."""
