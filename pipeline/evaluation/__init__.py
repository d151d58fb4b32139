"""Evaluates models on labelled images."""
