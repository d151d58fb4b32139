"""Pure decisions on live parts: sequential tests, rollout gates, drift and the reject chart."""
