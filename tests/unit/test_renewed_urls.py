"""A URL of PostgreSQL that gets another user or password while the service runs."""

import pytest

from harness.postgres import server
from ledger.databases import backend as backend_of
from ledger.postgres import PostgresBackend
from ledger.writer import SqlLedger
from tests.support.ledgers import running


@pytest.fixture
def schema():
    with server().schema() as name:
        yield name


def user_of(backend):
    with backend.engine.connect() as connection:
        return connection.exec_driver_sql("SELECT current_user").scalar()


def test_new_connections_use_the_new_url_and_open_ones_stay(schema):
    role = f"{schema}_second"
    server().execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
    backend = PostgresBackend(server().url(schema=schema), ttl=2.0)
    with running(SqlLedger(backend)) as ledger:
        assert "postgres" == user_of(backend)
        assert backend.renew(server().url(schema=schema, user=role))
        assert "postgres" == user_of(backend)
        backend.engine.dispose()

        assert role == user_of(backend)
        assert None is ledger.trouble
    server().execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize("other", ["postgresql://elsewhere/postgres", "postgresql:///another"])
def test_another_database_takes_a_restart(schema, other):
    backend = PostgresBackend(server().url(schema=schema))

    assert not backend.renew(other)
    assert "postgres" == user_of(backend)
    backend.engine.dispose()


def test_another_file_takes_a_restart(tmp_path):
    backend = backend_of(f"sqlite:///{tmp_path / 'ledger.db'}")

    assert not backend.renew(f"sqlite:///{tmp_path / 'other.db'}")
    backend.engine.dispose()
