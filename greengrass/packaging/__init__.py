"""Greengrass components from this checkout: recipes checked, wheels collected, archives written, versions deployed.

Runs where components are built and deployed, never on a device: the wheel leaves this package out. Only `component.py`
travels, as an artifact of its own.
"""
