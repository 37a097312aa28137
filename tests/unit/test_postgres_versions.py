"""Processes of several versions on one ledger in PostgreSQL: who migrates it, who may use it, who takes work over."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import Column, MetaData, Table
from sqlalchemy.dialects import postgresql

from harness.postgres import server
from harness.service_process import until
from ledger import Profile
from ledger.migrations import POSTGRES, TooNew
from ledger.postgres import PostgresBackend
from ledger.queries import SqlQueries
from ledger.records import GenerationRecord
from ledger.tables import GENERATIONS, RowMapping
from tests.support.records import generation

PRESENT = POSTGRES.version

ADDS = (
    "ALTER TABLE generations ADD COLUMN mood TEXT",
    "ALTER TABLE attempts ADD COLUMN mood TEXT",
    "CREATE TABLE moods (mood TEXT PRIMARY KEY)",
)

NEXT = replace(POSTGRES, version=PRESENT + 1, steps={**POSTGRES.steps, PRESENT: ADDS})
"""The version after this one, which the present one can be beside."""

BREAKS = replace(
    NEXT,
    compatible=PRESENT + 1,
    steps={**POSTGRES.steps, PRESENT: ("ALTER TABLE generations DROP COLUMN prompt",)},
)
"""One that it cannot be beside."""


@pytest.fixture
def schema():
    with server().schema() as name:
        yield name


@pytest.fixture
def start(schema):
    """Opens the ledger as a process of a version. Its clock never makes one overdue."""
    made = []

    def start(tables=POSTGRES, *, ttl=600.0, **profile):
        backend = PostgresBackend(
            server().url(schema=schema), ttl=ttl, alone=False, profile=Profile(**profile), schema=tables
        )
        made.append(backend)
        backend.open()
        return backend

    yield start
    for each in made:
        each.disconnect()


@pytest.fixture
def execute(schema):
    def execute(statement):
        return server().execute(statement.replace("ledger.", f"{schema}."))

    return execute


def write(backend, record):
    backend.write({(type(record), (record.id,)): record})


def in_the_end(start, version):
    """Open the ledger as the writer does, which tries again after a wait for a lock was too long."""
    while True:
        try:
            return start(version)
        except (psycopg.Error, sqlalchemy.exc.DBAPIError) as error:
            if not isinstance(getattr(error, "orig", error), psycopg.errors.LockNotAvailable):
                raise


def version(execute, name="version") -> int:
    return int(execute(f"SELECT value FROM ledger.meta WHERE name = '{name}'")[0][0])


def bury(backend) -> bool:
    with backend.transaction() as cursor:
        return backend.bury(cursor)


def test_a_process_of_the_version_before_writes_and_reads_on_after_a_migration(start, execute):
    before = start()
    write(before, generation("a"))

    after = start(NEXT)
    write(before, generation("b"))
    write(after, generation("c"))

    for each in (before, after):
        assert ["a", "b", "c"] == [row.id for row in SqlQueries(each.engine).unfinished()]
    assert (PRESENT + 1, POSTGRES.compatible) == (version(execute), version(execute, "compatible"))


def test_a_row_that_an_older_process_writes_again_keeps_what_only_a_later_one_knows(start, execute):
    older = start()
    start(NEXT)
    write(older, generation("a"))
    execute("UPDATE ledger.generations SET mood = 'calm'")

    write(older, generation("a", state="running"))

    assert [("running", "calm")] == execute("SELECT state, mood FROM ledger.generations")


def written_by_version_5(record) -> tuple[str, tuple]:
    """The statement with which a process of version 5 writes a generation, and its parameters."""
    added = {"version", "kind", "cost_basis", "warnings", "has_secrets"}
    columns = [Column(each.name, each.type) for each in GENERATIONS.c if each.name not in added]
    mapping = RowMapping(GenerationRecord, Table("generations", MetaData(), *columns), "id")
    dialect = postgresql.dialect(paramstyle="format")
    return mapping.statements(dialect, postgresql.insert).upsert, mapping.values(record)


def test_what_published_models_add_to_a_row_survives_the_writes_of_a_process_of_version_5(start):
    process = start()
    later = generation(
        "a", version="1" * 64, kind="3d", cost_basis="learned", warnings=("Old.",), has_secrets=True
    )
    write(process, later)

    with process.transaction() as cursor:
        cursor.execute(*written_by_version_5(replace(later, state="running")))
        cursor.execute(*written_by_version_5(generation("b")))
        cursor.execute("INSERT INTO leases (id, caller, state) VALUES ('one', 'anna', 0)")
        leases = cursor.execute("SELECT boots, started FROM leases").fetchall()

    found = SqlQueries(process.engine).unfinished()
    expected = [replace(later, state="running"), generation("b")]
    assert expected == [replace(each, seq=None, process=None) for each in found]
    assert [(None, False)] == leases


def test_an_older_process_starts_and_connects_again_on_a_later_compatible_ledger(start):
    running = start()
    start(NEXT).close()

    running.disconnect()
    running.open()
    write(running, generation("a"))
    write(start(), generation("b"))


def test_an_older_process_does_not_start_on_a_ledger_that_is_not_compatible(start):
    start().close()
    start(BREAKS).close()

    with pytest.raises(TooNew) as error:
        start()
    assert f"it is of version {PRESENT + 1}, and this service knows {PRESENT}" == str(error.value)


def test_a_migration_that_older_processes_cannot_use_waits_until_all_of_them_have_ended(start, execute):
    older = [start(), start()]
    for each in older:
        with pytest.raises(ConnectionError, match="is of a version that cannot run beside this one"):
            start(BREAKS)
        write(each, generation("a"))
        each.close()

    start(BREAKS)

    assert PRESENT + 1 == version(execute, "compatible")


def test_a_migration_does_not_wait_for_a_process_that_was_killed(start, execute):
    killed = start()
    execute("UPDATE ledger.processes SET until = now() - interval '1 hour'")

    start(BREAKS, ttl=0.01)

    with pytest.raises(Exception, match="another process has taken it over"):
        killed.write({})


def test_processes_that_start_at_once_on_an_empty_database_all_get_its_ledger(start, execute):
    with ThreadPoolExecutor(4) as threads:
        for started in [threads.submit(start) for _ in range(4)]:
            started.result()

    assert PRESENT == version(execute)


def test_of_processes_that_start_at_once_one_migrates(start, execute):
    start().close()

    with ThreadPoolExecutor(3) as threads:
        for started in [threads.submit(in_the_end, start, NEXT) for _ in range(3)]:
            started.result()

    assert PRESENT + 1 == version(execute)


def test_a_migration_that_fails_leaves_the_ledger_to_the_older_processes(start, execute):
    older = start()
    broken = replace(
        NEXT, steps={**POSTGRES.steps, PRESENT: (*ADDS, "ALTER TABLE nothing ADD COLUMN mood TEXT")}
    )

    with pytest.raises(Exception, match="nothing"):
        start(broken)

    write(older, generation("a"))
    assert [(None,)] == execute("SELECT to_regclass('ledger.moods')::text")
    assert PRESENT == version(execute)


def test_a_migration_waits_for_writes_and_is_in_no_deadlock_with_one(start, execute):
    """A write locks the tables in another order than this migration does."""
    older = start()
    with ThreadPoolExecutor(1) as threads:
        with older.transaction() as cursor:
            migrated = threads.submit(in_the_end, start, NEXT)
            until(lambda: execute("SELECT 1 FROM pg_locks WHERE NOT granted"))
            cursor.execute("UPDATE attempts SET number = 1")
            cursor.execute("UPDATE generations SET state = 'queued'")
        migrated.result()

    assert PRESENT + 1 == version(execute)


def test_the_server_ends_a_migration_whose_host_is_lost(start, execute):
    start()
    seen = "CREATE TABLE seen AS SELECT current_setting('idle_in_transaction_session_timeout') AS value"

    start(replace(NEXT, steps={**POSTGRES.steps, PRESENT: (seen,)}))

    assert [("5s",)] == execute("SELECT value FROM ledger.seen")


# ── Work that a process of another version has left


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        ((POSTGRES, "1.0"), (NEXT, "1.1")),
        ((NEXT, "1.1"), (POSTGRES, "1.0")),
        ((POSTGRES, "1.0"), (POSTGRES, "1.1")),
    ],
    ids=["later", "earlier", "with the same tables"],
)
def test_work_is_left_to_a_process_of_its_version_while_there_is_one(start, mine, other):
    start().close()
    one = start(mine[0], version=mine[1])
    first, second = (start(other[0], version=other[1]) for _ in range(2))
    first.close()

    assert [False, True] == [bury(one), bury(second)]


def test_after_a_step_back_the_older_processes_take_over_the_work_of_the_later_version(start, execute):
    older, later = start(token="r8_one"), start(NEXT, token="r8_one")
    write(later, generation("a", process=later.process))
    later.close()

    assert bury(older)
    assert [(older.process,)] == execute("SELECT process FROM ledger.generations")


def test_work_is_never_left_to_a_process_of_its_version_that_may_not_take_it(start):
    """It has no server token, and the one that has left the work had one."""
    older, later, poor = start(token="r8_one"), start(NEXT, token="r8_one"), start(NEXT)
    later.close()

    assert [False, True] == [bury(poor), bury(older)]
