"""Processes on one ledger in PostgreSQL, without a service. Its clock stands still until the test moves it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg

from harness.postgres import server
from ledger import Profile
from ledger.postgres import PostgresBackend
from ledger.recent import Place
from ledger.records import Record, with_attempts
from ledger.tables import MAPPINGS
from ledger.writer import TakenOver

TTL = 5.0


class Cluster:
    """A ledger with a clock and a timeline that the test moves. Both stand still until then."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self.url = server().url(schema=f"{schema},pg_catalog")
        self._processes: list[Process] = []
        server().execute(
            f"CREATE TABLE {schema}.clock AS"
            " SELECT now() AS at, now() - interval '1 day' AS started_at, 1 AS timeline",
            f"CREATE FUNCTION {schema}.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE"
            f" AS 'SELECT at FROM {schema}.clock'",
            f"CREATE FUNCTION {schema}.pg_postmaster_start_time() RETURNS timestamptz LANGUAGE sql VOLATILE"
            f" AS 'SELECT started_at FROM {schema}.clock'",
            f"CREATE FUNCTION {schema}.pg_walfile_name(pg_lsn) RETURNS text LANGUAGE sql VOLATILE"
            f" AS 'SELECT lpad(timeline::text, 8, ''0'') FROM {schema}.clock'",
        )

    def process(self, **facts: Any) -> "Process":
        self._processes.append(Process(self, **facts))
        return self._processes[-1]

    def advance(self, seconds: float) -> None:
        self.execute(f"UPDATE clock SET at = at + interval '{seconds} s'")

    def fail_over(self) -> None:
        """From now on the server is a standby that was promoted. The test deletes the lost rows."""
        self.execute("UPDATE clock SET timeline = timeline + 1")

    def live(self, seconds: float, *processes: "Process") -> None:
        """Let time pass while these processes write often."""
        for _ in range(round(seconds)):
            self.advance(1.0)
            for each in processes:
                each.write()

    def execute(self, statement: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        for each in self._processes:
            each.backend.disconnect()


class Process:
    """A process that writes and buries when the test says so."""

    def __init__(self, cluster: Cluster, *, alone: bool = False, **profile: Any) -> None:
        self._cluster = cluster
        self.backend = PostgresBackend(cluster.url, ttl=TTL, alone=alone, profile=Profile(**profile))
        try:
            self.backend.open()
        except BaseException:
            self.backend.disconnect()
            raise
        self.write()

    def come_back(self) -> bool:
        """Open the ledger again. Returns whether commits may be lost."""
        self.backend.disconnect()
        is_lossy = self.backend.open()
        self.write()
        return is_lossy

    def write(self, *records: Any) -> None:
        """Write these as records of this process, with their attempts, or nothing."""
        changes: dict[Place, Record] = {}
        for each in records:
            assert each.process is None
            mine = with_attempts(replace(each, process=self.backend.process))
            changes |= {place_of(part): part for part in mine}
        self.backend.write(changes)

    def bury(self) -> bool:
        with self.transaction() as cursor:
            return self.backend.bury(cursor)

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor[Any]]:
        alive = "SELECT FROM processes WHERE id = %s AND dead_at IS NULL FOR KEY SHARE"
        with psycopg.connect(self._cluster.url) as connection, connection.cursor() as cursor:
            assert cursor.execute(alive, (self.backend.process,)).rowcount
            yield cursor

    @property
    def is_marked_dead(self) -> bool:
        query = "SELECT dead_at IS NOT NULL FROM processes WHERE id = %s"
        [[is_dead]] = self._cluster.execute(query, self.backend.process)
        return bool(is_dead)

    def is_dead(self) -> bool:
        """Whether it can write no more."""
        try:
            self.write()
        except TakenOver:
            return True
        return False


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster on a new ledger, while the block runs."""
    with server().schema() as name:
        made = Cluster(name)
        yield made
        made.close()


def place_of(record: Record) -> Place:
    return type(record), MAPPINGS[type(record)].key_of(record)
