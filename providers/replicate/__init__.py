"""Replicate, the provider: its HTTP API, and the meaning of its answers."""
