"""The model wing: what a release is, and (from the lifecycle on) how one replaces another."""
