"""What happens around a deployment: configuration changes, validation, preflight, and deferral."""
