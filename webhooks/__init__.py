"""Deliveries of results to the webhooks of callers."""
