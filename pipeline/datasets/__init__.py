"""Data sets that grow: what the line collected and people labelled becomes versions that training reads."""
