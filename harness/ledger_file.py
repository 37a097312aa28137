"""The ledger of one process as a file of SQLite, with the calls of `postgres.Server` that fleets and audits need."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

UNFINISHED = """
    SELECT (SELECT count(*) FROM generations WHERE ended_at IS NULL)
         + (SELECT count(*) FROM batches WHERE ended_at IS NULL) AS n
"""
"""The number of generations and batches that have not ended, in any ledger."""


class LedgerFile:
    """The ledger in the DATA_DIR of a process."""

    def __init__(self, data: Path) -> None:
        self.directory = data

    def url(self) -> str:
        """DATABASE_URL: empty for a file."""
        return ""

    def execute(self, statement: str) -> list[Any]:
        """The rows of a query."""
        with closing(sqlite3.connect(f"file:{self.directory}/ledger.db?mode=ro", uri=True)) as ledger:
            return ledger.execute(statement).fetchall()
