"""Chooses the database of the ledger by its URL."""

from ledger import Profile
from ledger.sqlite import SqliteBackend
from ledger.writer import Backend
from settings import SettingsError


def backend(url: str, *, ttl: float = 5.0, alone: bool = False, profile: Profile | None = None) -> Backend:
    """The database of `sqlite:///path` or of a URL of PostgreSQL. It is not opened yet. In PostgreSQL, a process counts
    as dead `ttl` seconds after its last transaction, and the others see its `profile`. One that is `alone` waits for
    the end of all others, as in SQLite. Raises SettingsError without any part of the URL."""
    if url.startswith("sqlite:"):
        return SqliteBackend(url)
    try:
        from ledger.postgres import PostgresBackend
    except ImportError:
        raise SettingsError(
            "DATABASE_URL: the driver of PostgreSQL is not installed; run pip install -r requirements-postgres.txt."
        ) from None
    try:
        return PostgresBackend(url, ttl=ttl, alone=alone, profile=profile)
    except ValueError as error:
        raise SettingsError(f"DATABASE_URL: {error}.") from None
