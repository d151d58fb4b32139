"""Broker, proxy and DNS of a bad network."""
