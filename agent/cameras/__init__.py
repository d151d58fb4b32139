"""Addresses of cameras and how the agent logs in to them."""
