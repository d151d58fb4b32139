"""Searches over training configurations: plans the trainings and runs them on this machine."""
