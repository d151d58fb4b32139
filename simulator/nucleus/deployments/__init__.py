"""Deployments on the simulated nucleus: recipes, processes, gates."""
