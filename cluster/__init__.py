"""What processes that share a ledger do with each other, on the event loop. Their transactions are in `ledger/`."""
