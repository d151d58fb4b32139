"""How a release reaches the fleet: deployments, rollout policies, and the decision to promote or roll back."""
