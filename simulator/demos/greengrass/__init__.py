"""The demo as a Greengrass deployment: the real component under the simulated nucleus.

Its model is updated in three ways.
"""
