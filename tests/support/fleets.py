"""Fleets for tests that run on each database."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.fleet import Fleet, running_fleet
from harness.ledger_file import LedgerFile
from harness.postgres import server


@contextmanager
def fleet_on(engine: str, directory: Path, **settings: Any) -> Iterator[Fleet]:
    """A fleet of one process with its ledger in this directory, or of three on a schema of PostgreSQL. `engine` is
    `sqlite` or `postgresql`."""
    if engine == "sqlite":
        with running_fleet(1, LedgerFile(directory), **settings) as fleet:
            yield fleet
        return
    with server().schema() as schema:
        url = server().url(schema=schema)
        with running_fleet(3, server(), database=lambda _: url, **settings) as fleet:
            yield fleet
