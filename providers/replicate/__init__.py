"""Replicate, the provider: its HTTP API, and what its answers mean."""
