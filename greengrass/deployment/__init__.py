"""Handling of deployments: configuration changes, validation, preflight, and deferral."""
