"""Fixtures of the tests over HTTP."""

import psycopg
import pytest

from tests.support.text_calls import GEMINI_KEY


@pytest.fixture
def make_text_app(make_app, simulator):
    """Makes services that have a Gemini key. The answers of the simulator take no time."""
    simulator.gemini.configure(first_seconds=0, seconds=0)

    def make(**settings):
        return make_app(GEMINI_API_KEY=GEMINI_KEY, GEMINI_BASE_URL=simulator.url, **settings)

    return make


@pytest.fixture
def texts(make_text_app):
    """Makes clients of services that have a Gemini key."""
    return lambda **settings: make_text_app(**settings).test_client()


@pytest.fixture
def kept(tmp_path, database_url):
    """All that is on the disk, as text."""

    def read() -> str:
        found = [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
        if database_url:
            with psycopg.connect(database_url) as connection:
                tables = connection.execute(
                    "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
                )
                for (name,) in tables.fetchall():
                    rows = connection.execute(f"SELECT it::text FROM {name} AS it".encode())
                    found += [text for (text,) in rows]
        return "\n".join(found)

    return read
