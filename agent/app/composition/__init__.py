"""Composition of an agent: configuration and dependencies in, one frozen record of components out."""
