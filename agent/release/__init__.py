"""The contents of a release: manifest, golden set, graph and rollout policy; and their store."""
