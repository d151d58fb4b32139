"""Where candidates are kept."""
