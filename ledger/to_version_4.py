"""From version 3 of a SQLite ledger, that of 0.6.0, to version 4: the usage of deleted generations is kept by day."""

import sqlite3


def usage_by_day(driver: sqlite3.Connection) -> None:
    """Add the table, which is empty, and an index to find old batches by, inside the caller's transaction."""
    driver.execute(
        """CREATE TABLE usage_by_day (
            day INTEGER NOT NULL, caller_id TEXT NOT NULL, model TEXT NOT NULL, simulated BOOLEAN NOT NULL, generations
            INTEGER NOT NULL, succeeded INTEGER NOT NULL, failures INTEGER NOT NULL, canceled INTEGER NOT NULL, images
            INTEGER NOT NULL, video_seconds FLOAT NOT NULL, usd FLOAT NOT NULL, credits INTEGER NOT NULL,
            PRIMARY KEY (day, caller_id, model, simulated)
        ) WITHOUT ROWID"""
    )
    driver.execute("CREATE INDEX batches_by_end ON batches (ended_at) WHERE ended_at IS NOT NULL")
