"""The contents of a release: manifest, golden set, graph policy, rollout policy; and where releases are stored."""
