"""A plant and a cloud on one machine: parts with ground truth, cameras, broker and cloud, for people without a factory.

Runs from a checkout; nothing imports it, and the device wheel does not hold it.
"""
