"""The demo of the improvement cycle.

A lamp fades, the model fails, and a better one is trained from what the line collected.
"""
