"""From version 2 of a SQLite ledger, that of 0.5.0, to version 3: attempts have the skew of the upstream's clock."""

import sqlite3


def clock_skew_of_attempts(driver: sqlite3.Connection) -> None:
    """Add the column, inside the caller's transaction. It is empty in the rows that are there."""
    driver.execute("ALTER TABLE attempts ADD COLUMN clock_skew FLOAT")
