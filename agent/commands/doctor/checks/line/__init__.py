"""Checks of cameras, broker and ports, or of the agent that uses them."""
