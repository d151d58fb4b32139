"""The improvement cycle on one machine: a lamp fades, the model fails, a better one comes from what the line saw."""
