"""A migrated ledger has the layout of a new one, and a copy of the old ledger is kept beside it."""

import re
import sqlite3
import stat
from contextlib import closing
from hashlib import sha256

import pytest

from harness.postgres import server
from ledger.migrations import (
    POSTGRES_COMPATIBLE,
    POSTGRES_STEPS,
    PRESENT,
    STEPS,
    clock_skew_of_attempts,
    usage_by_day,
)
from ledger.postgres import PostgresBackend
from ledger.sqlite import SqliteBackend
from ledger.to_version_2 import facts_in_columns
from ledger.writer import SqlLedger
from tests.support.kept_ledgers import unpacked
from tests.support.postgres_layout import KEPT, tables_of

RELEASED = {2: "864e1c0fbc94", 3: "c5842af9b09c", 4: "a4ac69b2c134", 10: "0463120a9453"}
"""A digest of the layout of released versions: those of 0.5.0 to 0.7.0, and the one before trainings. A release with a
new version adds its own."""


@pytest.fixture
def old(tmp_path):
    """A ledger of 0.4.0."""
    return unpacked(tmp_path / "old", 1_800_000_000).directory / "ledger.db"


def opened(path) -> str | None:
    """Open it and close it. Returns its trouble."""
    ledger = SqlLedger(SqliteBackend(f"sqlite:///{path}"))
    ledger.start()
    ledger.close()
    return ledger.trouble


def fetched(path, query: str) -> list:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def layout(path) -> dict:
    """Each table's columns with their types and keys, and each index with its columns and condition."""
    tables = [
        name for (name,) in fetched(path, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    ]
    columns = {name: fetched(path, f"PRAGMA table_info({name})") for name in tables}
    indexes = {
        (name, unique, partial): fetched(path, f"PRAGMA index_info({name})")
        for table in tables
        for _, name, unique, _, partial in fetched(path, f"PRAGMA index_list({table})")
    }
    return {"columns": columns, "indexes": indexes}


def test_a_migrated_ledger_has_the_tables_of_a_new_one(old, tmp_path):
    assert opened(old) is None
    assert opened(tmp_path / "new.db") is None

    assert layout(tmp_path / "new.db") == layout(old)
    assert [(1 + len(STEPS),)] == fetched(old, "PRAGMA user_version")
    assert [("ok",)] == fetched(old, "PRAGMA integrity_check")


def test_a_released_version_keeps_its_layout(old):
    """If this fails, change the released step back and write a new one: ledgers of that version are out there."""
    made = {}
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        for version, step in enumerate(STEPS, 2):
            step(connection)
            made[version] = sha256(repr(layout(old)).encode()).hexdigest()[:12]

    assert RELEASED == {version: made[version] for version in RELEASED}


def test_each_version_but_the_present_one_has_a_migration_in_postgresql():
    assert list(range(5, PRESENT)) == list(POSTGRES_STEPS)


@pytest.mark.parametrize("version", KEPT)
def test_a_migrated_ledger_in_postgresql_has_the_tables_of_a_new_one(version):
    with server().schema() as old, server().schema() as new:
        server().execute(
            f"SET search_path = {old}; {KEPT[version].read_text()}"
            f"INSERT INTO meta VALUES ('version', '{version}')"
        )
        for schema in (old, new):
            with closing(PostgresBackend(server().url(schema=schema))) as backend:
                backend.open()

        assert tables_of(server(), new) == tables_of(server(), old)


def only_adds(statement, made="") -> bool:
    """Whether it takes milliseconds, and older processes can go on after it. A default that calls a function would
    write each row anew, and an index on a table that is there would hold up all writes, unless an earlier one of the
    statements in `made` has created that."""
    words = " ".join(statement.split())
    if index := re.match(r"CREATE INDEX \w+ ON (\w+) ", words):
        return f"CREATE TABLE {index[1]} " in made
    column = re.match(r"ALTER TABLE \w+ ADD COLUMN \w+ ", words) and not re.search(
        r"UNIQUE|REFERENCES|CHECK|\(", words
    )
    return words.startswith("CREATE TABLE ") or bool(
        column and ("NOT NULL" not in words or "DEFAULT" in words)
    )


def test_each_step_in_postgresql_that_older_processes_can_stand_only_adds():
    """After any other step, `POSTGRES_COMPATIBLE` is the present version."""
    versions = range(POSTGRES_COMPATIBLE, PRESENT)
    statements = [each for version in versions for each in POSTGRES_STEPS[version]]

    assert [] == [each for each in statements if not only_adds(each, "".join(statements))]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("ALTER TABLE attempts ADD COLUMN mood TEXT", True),
        ("ALTER TABLE attempts ADD COLUMN mood TEXT NOT NULL", False),
        ("ALTER TABLE attempts ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm'", True),
        ("ALTER TABLE attempts ADD COLUMN at TIMESTAMP DEFAULT clock_timestamp()", False),
        ("ALTER TABLE attempts ADD COLUMN mood TEXT UNIQUE", False),
        ("ALTER TABLE attempts DROP COLUMN mood", False),
        ("CREATE TABLE moods (\n mood TEXT PRIMARY KEY)", True),
        ("CREATE INDEX attempts_by_mood ON attempts (mood)", False),
    ],
)
def test_what_only_adds(statement, expected):
    assert only_adds(statement) is expected


def test_a_ledger_of_version_2_keeps_its_rows_and_knows_no_skew_of_its_attempts(old):
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        facts_in_columns(connection)
        connection.execute("PRAGMA user_version = 2")
    before = fetched(old, "SELECT * FROM attempts")

    assert opened(old) is None

    assert before
    after = fetched(old, "SELECT * FROM attempts")
    assert [(*row, None) for row in before] == [row[: len(before[0]) + 1] for row in after]
    assert before == fetched(old.with_name("ledger.db.version-2"), "SELECT * FROM attempts")


def test_a_ledger_of_version_3_keeps_its_rows_and_has_no_usage_of_deleted_ones(old):
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        facts_in_columns(connection)
        clock_skew_of_attempts(connection)
        connection.execute("PRAGMA user_version = 3")
    every = "SELECT * FROM generations", "SELECT * FROM attempts", "SELECT * FROM batches"
    before = [fetched(old, query) for query in every]

    assert opened(old) is None

    assert all(before)
    for rows, query in zip(before, every, strict=True):
        assert rows == [row[: len(rows[0])] for row in fetched(old, query)]
    assert before == [fetched(old.with_name("ledger.db.version-3"), query) for query in every]
    assert [] == fetched(old, "SELECT * FROM usage_by_day")


def test_a_ledger_of_version_4_keeps_its_rows_and_its_work_names_no_semaphore(old):
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        for step in (facts_in_columns, clock_skew_of_attempts, usage_by_day):
            step(connection)
        connection.execute("PRAGMA user_version = 4")
    before = fetched(old, "SELECT * FROM generations")

    assert opened(old) is None

    assert before
    after = fetched(old, "SELECT * FROM generations")
    assert [(*row, None, None, None) for row in before] == [row[: len(before[0]) + 3] for row in after]
    assert [] == fetched(old, "SELECT * FROM semaphores") + fetched(old, "SELECT * FROM semaphore_leases")


def test_a_ledger_of_version_5_keeps_its_rows_and_knows_no_published_models(old):
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        for step in STEPS[:4]:
            step(connection)
        connection.execute("PRAGMA user_version = 5")
    before = fetched(old, "SELECT * FROM generations")

    assert opened(old) is None

    assert before
    after = [row[: len(before[0]) + 5] for row in fetched(old, "SELECT * FROM generations")]
    assert [(*row, None, None, None, "[]", 0) for row in before] == after
    tables = ("schemas", "models", "lookups")
    assert [] == [row for table in tables for row in fetched(old, f"SELECT * FROM {table}")]


def test_a_ledger_of_version_6_keeps_its_rows_and_has_no_keys(old):
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        for step in STEPS[:5]:
            step(connection)
        connection.execute("PRAGMA user_version = 6")
    every = "SELECT * FROM generations", "SELECT * FROM batches"
    before = [fetched(old, query) for query in every]

    assert opened(old) is None

    for rows, query, added in zip(before, every, (4, 3), strict=True):
        assert rows
        after = [row[: len(rows[0]) + added] for row in fetched(old, query)]
        assert [(*row, *[None] * added) for row in rows] == after
    tables = ("api_keys", "spending", "audit", "lost_calls")
    assert [] == [row for table in tables for row in fetched(old, f"SELECT * FROM {table}")]


def test_a_ledger_of_version_7_keeps_its_rows_and_its_batches_have_joined_nothing(old):
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        for step in STEPS[:6]:
            step(connection)
        connection.execute("PRAGMA user_version = 7")
    before = fetched(old, "SELECT * FROM batches"), fetched(old, "SELECT * FROM generations")

    assert opened(old) is None

    assert all(before)
    assert [(*row, None) for row in before[0]] == fetched(old, "SELECT * FROM batches")
    added = None, 0, 0, 0, 0, None, None
    assert [(*row, *added) for row in before[1]] == fetched(old, "SELECT * FROM generations")
    assert before[0] == fetched(old.with_name("ledger.db.version-7"), "SELECT * FROM batches")


def test_a_ledger_of_version_10_keeps_its_usage_and_knows_no_trainings(old):
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        for step in STEPS[:9]:
            step(connection)
        connection.execute(
            "INSERT INTO usage_by_day VALUES (1, 'a', 'm', 0, 2, 2, 0, 0, 3, 0, 0.5, 4, 0, 0, 0, 0)"
        )
        connection.execute("PRAGMA user_version = 10")
    every = "SELECT * FROM generations", "SELECT * FROM attempts", "SELECT * FROM usage_by_day"
    *before, (usage,) = [fetched(old, query) for query in every]

    assert opened(old) is None

    assert all(before)
    *after, (with_trainings,) = [fetched(old, query) for query in every]
    assert before == after
    assert (*usage, 0, 0.0) == with_trainings
    assert [] == fetched(old, "SELECT * FROM trained_models")


def test_the_old_ledger_is_copied_once_and_whole_and_only_its_owner_can_read_the_copy(old):
    before = fetched(old, "SELECT * FROM generations ORDER BY seq")
    opened(old)
    copy = old.with_name("ledger.db.version-1")
    made_at = copy.stat().st_mtime_ns

    assert before == fetched(copy, "SELECT * FROM generations ORDER BY seq")
    assert [(1,)] == fetched(copy, "PRAGMA user_version")
    assert 0o600 == stat.S_IMODE(copy.stat().st_mode)
    opened(old)
    assert made_at == copy.stat().st_mtime_ns
    assert [] == list(old.parent.glob("*.part"))


def test_a_copy_that_a_dying_process_left_unfinished_is_made_anew(old):
    old.with_name("ledger.db.version-1.part").write_bytes(b"half of it")

    assert opened(old) is None

    assert [(1,)] == fetched(old.with_name("ledger.db.version-1"), "PRAGMA user_version")


def test_half_a_surrogate_pair_in_an_old_error_is_replaced(old):
    """Version 1 kept it as JSON escapes it; a column of text cannot hold it."""
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute(
            r"""UPDATE generations SET facts = json_set(facts, '$.error', json('{"code": "generation_failed",
            "detail": "half \ud83d, whole \ud83d\ude00", "retryable": false}')) WHERE seq = 1"""
        )

    assert opened(old) is None

    assert [("half \ufffd, whole \U0001f600",)] == fetched(
        old, "SELECT error_detail FROM generations WHERE seq = 1"
    )
