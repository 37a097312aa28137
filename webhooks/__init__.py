"""Webhooks to callers: `outbox.py` queues deliveries, `signing.py` signs them, `sender.py` makes one HTTP attempt."""
