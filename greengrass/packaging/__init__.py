"""Builds and deploys Greengrass components: recipes, wheels, archives, deployments.

Runs where components are built and deployed, never on a device: the wheel excludes this package. Only `component.py`
is shipped, as an artifact of its own.
"""
