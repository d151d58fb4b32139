"""Campaigns with faulty brokers and networks."""
