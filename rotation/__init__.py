"""Secrets that are replaced while the service runs: noticed here, and put in the place of the old ones."""
