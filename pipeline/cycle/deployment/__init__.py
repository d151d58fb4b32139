"""Deployments to the fleet, rollout policies, and the decision to promote or roll back."""
