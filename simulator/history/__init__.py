"""A plant's history: months of verdicts with their ground truth, as tables."""
