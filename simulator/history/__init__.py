"""A plant's past: months of verdicts with their ground truth, as tables."""
