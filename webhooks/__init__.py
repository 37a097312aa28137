"""Webhooks to callers: `outbox.py` queues the deliveries, `sender.py` makes one HTTP attempt."""
