"""Campaigns that inject faults and check that what the agent promised still holds."""
