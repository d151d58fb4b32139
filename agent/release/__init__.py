"""What a release is: manifest, golden set, graph policy, acceptance set, rollout policy, and its place on disk."""
