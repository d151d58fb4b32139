"""Killing the agent's parts and cutting their power, to see whether what they promised is still there."""
