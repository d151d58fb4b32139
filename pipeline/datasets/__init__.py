"""Builds versioned data sets from the frames that a line collected and the labels for them."""
