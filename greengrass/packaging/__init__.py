"""Builds and deploys Greengrass components: checks recipes, collects wheels, writes archives, deploys.

Runs where components are built and deployed, never on a device: the wheel excludes this package. Only `component.py`
is shipped, as an artifact of its own.
"""
