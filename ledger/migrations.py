"""Migrates a ledger of an older version to the present one. The rest of this docstring is about SQLite.

All steps run in one transaction, so a crash leaves the old ledger intact. Before that, the file is copied beside itself
with its version in the name: `ledger.db.version-2`.
"""

import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, select
from sqlalchemy.dialects import sqlite

from ledger import HASH_KEY
from ledger.creation import create_tables
from ledger.tables import META, METADATA, Insert
from ledger.to_version_2 import facts_in_columns

Step = Callable[[sqlite3.Connection], None]

_TOKENS: Final = tuple(f"{name}_tokens INTEGER" for name in ("prompt", "cached", "completion", "thinking"))
_COUNTS: Final = tuple(
    f"{name} INTEGER NOT NULL DEFAULT 0"
    for name in ("calls", "prompt_tokens", "completion_tokens", "thinking_tokens")
)

_OF_TRAININGS: Final = ("trainings INTEGER NOT NULL DEFAULT 0", "training_usd FLOAT NOT NULL DEFAULT 0")
_TRAINED_MODELS: Final = """CREATE TABLE trained_models (
    version TEXT NOT NULL, simulated BOOLEAN NOT NULL, name TEXT NOT NULL, trigger_word TEXT, trainer TEXT NOT NULL,
    work_id TEXT NOT NULL, trained_at FLOAT NOT NULL, PRIMARY KEY (version, simulated)
)"""


def clock_skew_of_attempts(driver: sqlite3.Connection) -> None:
    """From version 2 (0.5.0): add the skew of the upstream's clock, NULL in existing rows."""
    driver.execute("ALTER TABLE attempts ADD COLUMN clock_skew FLOAT")


def usage_by_day(driver: sqlite3.Connection) -> None:
    """From version 3 (0.6.0): add a table for the usage of deleted generations, and an index of ended batches."""
    driver.execute(
        """CREATE TABLE usage_by_day (
            day INTEGER NOT NULL, caller_id TEXT NOT NULL, model TEXT NOT NULL, simulated BOOLEAN NOT NULL, generations
            INTEGER NOT NULL, succeeded INTEGER NOT NULL, failures INTEGER NOT NULL, canceled INTEGER NOT NULL, images
            INTEGER NOT NULL, video_seconds FLOAT NOT NULL, usd FLOAT NOT NULL, credits INTEGER NOT NULL,
            PRIMARY KEY (day, caller_id, model, simulated)
        ) WITHOUT ROWID"""
    )
    driver.execute("CREATE INDEX batches_by_end ON batches (ended_at) WHERE ended_at IS NOT NULL")


def semaphores(driver: sqlite3.Connection) -> None:
    """From version 4 (0.7.0): add named semaphores with their leases, the semaphore of a generation, and the process
    that runs a piece of work, both NULL in existing rows; and an index of unfinished batches."""
    driver.execute("ALTER TABLE generations ADD COLUMN semaphore TEXT")
    for table in ("generations", "batches", "idempotency_keys", "deliveries"):
        driver.execute(f"ALTER TABLE {table} ADD COLUMN process TEXT")
    for table in ("generations", "batches", "deliveries"):
        driver.execute(f"ALTER TABLE {table} ADD COLUMN taken_at FLOAT")
    driver.execute("CREATE INDEX batches_unfinished ON batches (id) WHERE ended_at IS NULL")
    driver.execute('CREATE TABLE semaphores (id TEXT NOT NULL, "limit" INTEGER NOT NULL, PRIMARY KEY (id))')
    driver.execute(
        """CREATE TABLE semaphore_leases (
            id TEXT NOT NULL, semaphore TEXT NOT NULL, ttl FLOAT NOT NULL, expires_at FLOAT NOT NULL, "key" TEXT,
            PRIMARY KEY (id)
        )"""
    )


def published_models(driver: sqlite3.Connection) -> None:
    """From version 5 (0.9.0): add tables for models with their published schemas and measured predictions, and what
    such a model adds to a generation. Rows that are there get the value of a declared model."""
    for column in ("version TEXT", "kind TEXT", "cost_basis TEXT"):
        driver.execute(f"ALTER TABLE generations ADD COLUMN {column}")
    driver.execute("ALTER TABLE generations ADD COLUMN warnings JSON NOT NULL DEFAULT '[]'")
    driver.execute("ALTER TABLE generations ADD COLUMN has_secrets BOOLEAN NOT NULL DEFAULT false")
    driver.execute(
        """CREATE TABLE schemas (
            version TEXT NOT NULL, simulated BOOLEAN NOT NULL, model TEXT NOT NULL, document BLOB NOT NULL,
            seen_at FLOAT NOT NULL, PRIMARY KEY (version, simulated)
        )"""
    )
    driver.execute(
        """CREATE TABLE models (
            reader TEXT NOT NULL, name TEXT NOT NULL, simulated BOOLEAN NOT NULL, version TEXT, is_official BOOLEAN,
            description TEXT NOT NULL, facts TEXT NOT NULL, missing BOOLEAN NOT NULL, looked_up_at FLOAT NOT NULL,
            PRIMARY KEY (reader, name, simulated)
        ) WITHOUT ROWID"""
    )
    driver.execute(
        """CREATE TABLE lookups (
            reader TEXT NOT NULL, name TEXT NOT NULL, simulated BOOLEAN NOT NULL, until FLOAT NOT NULL,
            is_over BOOLEAN NOT NULL, PRIMARY KEY (reader, name, simulated)
        ) WITHOUT ROWID"""
    )
    driver.execute(
        """CREATE TABLE runs (
            target TEXT NOT NULL, simulated BOOLEAN NOT NULL, slot INTEGER NOT NULL, seconds FLOAT NOT NULL,
            PRIMARY KEY (target, simulated, slot)
        ) WITHOUT ROWID"""
    )


def named_keys(driver: sqlite3.Connection) -> None:
    """From version 6 (0.10.0): add named keys with their spending, acts of administrators, calls that lost their
    connection, and how a piece of work came here, NULL in existing rows."""
    for table in ("generations", "batches"):
        for column in ("metadata", "door", "body_fingerprint"):
            driver.execute(f"ALTER TABLE {table} ADD COLUMN {column} TEXT")
    driver.execute("ALTER TABLE generations ADD COLUMN door_facts TEXT")
    driver.execute(
        """CREATE TABLE api_keys (
            id TEXT NOT NULL, name TEXT NOT NULL, role TEXT NOT NULL, digest TEXT NOT NULL, prefix TEXT NOT NULL,
            previous_digest TEXT, previous_until FLOAT, max_concurrent INTEGER, requests_per_minute INTEGER, max_queued
            INTEGER, budget_usd FLOAT, budget_period TEXT, models JSON NOT NULL, tags TEXT NOT NULL, created_at FLOAT
            NOT NULL, expires_at FLOAT, deleted_at FLOAT, revision INTEGER NOT NULL, PRIMARY KEY (id)
        )"""
    )
    driver.execute("CREATE INDEX api_keys_by_revision ON api_keys (revision)")
    driver.execute(
        """CREATE TABLE spending (
            payer TEXT NOT NULL, period TEXT NOT NULL, simulated BOOLEAN NOT NULL, process TEXT NOT NULL, spent FLOAT
            NOT NULL, reserved FLOAT NOT NULL, PRIMARY KEY (payer, period, simulated, process)
        ) WITHOUT ROWID"""
    )
    driver.execute(
        """CREATE TABLE audit (
            "at" FLOAT NOT NULL, id TEXT NOT NULL, actor TEXT NOT NULL, actor_name TEXT NOT NULL, action TEXT NOT NULL,
            target TEXT NOT NULL, details TEXT NOT NULL, request_id TEXT NOT NULL, PRIMARY KEY ("at", id)
        ) WITHOUT ROWID"""
    )
    driver.execute(
        """CREATE TABLE lost_calls (
            caller_id TEXT NOT NULL, body_fingerprint TEXT NOT NULL, work_id TEXT NOT NULL, accepted_at FLOAT NOT NULL,
            lost_at FLOAT NOT NULL, answered_try INTEGER, unsure BOOLEAN NOT NULL,
            PRIMARY KEY (caller_id, body_fingerprint, work_id)
        ) WITHOUT ROWID"""
    )


def joined_items(driver: sqlite3.Connection) -> None:
    """From version 7: add the items of a batch that were there before, NULL in existing rows."""
    driver.execute("ALTER TABLE batches ADD COLUMN joined TEXT")


def calls(driver: sqlite3.Connection) -> None:
    """From version 8 (0.11.0): add the seeds of attempts, and the tokens and the text of calls, to new rows alone."""
    driver.execute("ALTER TABLE attempts ADD COLUMN seed TEXT")
    for column in (*_TOKENS, "model_version TEXT", "finish_reason TEXT"):
        driver.execute(f"ALTER TABLE attempts ADD COLUMN {column}")
    driver.execute("ALTER TABLE generations ADD COLUMN text TEXT")
    for table in ("generations", "usage_by_day"):
        for column in _COUNTS:
            driver.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    driver.execute("ALTER TABLE generations ADD COLUMN resets_at TEXT")


def verdicts(driver: sqlite3.Connection) -> None:
    """From version 9: add the verdict on a generation, and whether a key is checked, NULL in existing rows."""
    driver.execute("ALTER TABLE generations ADD COLUMN verdict TEXT")
    driver.execute("ALTER TABLE api_keys ADD COLUMN safety TEXT")


def trainings(driver: sqlite3.Connection) -> None:
    """From version 10: add the versions that trainings have made, and the number and cost of deleted trainings, 0 in
    existing rows."""
    driver.execute(_TRAINED_MODELS + " WITHOUT ROWID")
    for column in _OF_TRAININGS:
        driver.execute(f"ALTER TABLE usage_by_day ADD COLUMN {column}")


STEPS: Final[Sequence[Step]] = (
    facts_in_columns, clock_skew_of_attempts, usage_by_day, semaphores, published_models, named_keys, joined_items,
    calls, verdicts, trainings,
)  # fmt: skip
"""Step *n*, counted from 1, migrates version *n* to *n + 1*. A released step is never changed."""

POSTGRES_STEPS: Final[Mapping[int, Sequence[str]]] = {
    5: (
        "ALTER TABLE generations ADD COLUMN version TEXT",
        "ALTER TABLE generations ADD COLUMN kind TEXT",
        "ALTER TABLE generations ADD COLUMN cost_basis TEXT",
        "ALTER TABLE generations ADD COLUMN warnings TEXT NOT NULL DEFAULT '[]'",
        "ALTER TABLE generations ADD COLUMN has_secrets BOOLEAN NOT NULL DEFAULT false",
        "ALTER TABLE leases ADD COLUMN boots TEXT",
        "ALTER TABLE leases ADD COLUMN started BOOLEAN NOT NULL DEFAULT false",
        """CREATE TABLE schemas (
            version TEXT NOT NULL, simulated BOOLEAN NOT NULL, model TEXT NOT NULL, document BYTEA NOT NULL,
            seen_at FLOAT NOT NULL, PRIMARY KEY (version, simulated)
        )""",
        """CREATE TABLE models (
            reader TEXT NOT NULL, name TEXT NOT NULL, simulated BOOLEAN NOT NULL, version TEXT, is_official BOOLEAN,
            description TEXT NOT NULL, facts TEXT NOT NULL, missing BOOLEAN NOT NULL, looked_up_at FLOAT NOT NULL,
            PRIMARY KEY (reader, name, simulated)
        )""",
        """CREATE TABLE lookups (
            reader TEXT NOT NULL, name TEXT NOT NULL, simulated BOOLEAN NOT NULL, until FLOAT NOT NULL,
            is_over BOOLEAN NOT NULL, PRIMARY KEY (reader, name, simulated)
        )""",
        """CREATE TABLE runs (
            target TEXT NOT NULL, simulated BOOLEAN NOT NULL, slot INTEGER NOT NULL, seconds FLOAT NOT NULL,
            PRIMARY KEY (target, simulated, slot)
        )""",
    ),
    6: (
        "ALTER TABLE generations ADD COLUMN metadata TEXT",
        "ALTER TABLE generations ADD COLUMN door TEXT",
        "ALTER TABLE generations ADD COLUMN body_fingerprint TEXT",
        "ALTER TABLE generations ADD COLUMN door_facts TEXT",
        "ALTER TABLE batches ADD COLUMN metadata TEXT",
        "ALTER TABLE batches ADD COLUMN door TEXT",
        "ALTER TABLE batches ADD COLUMN body_fingerprint TEXT",
        """CREATE TABLE api_keys (
            id TEXT NOT NULL, name TEXT NOT NULL, role TEXT NOT NULL, digest TEXT NOT NULL, prefix TEXT NOT NULL,
            previous_digest TEXT, previous_until FLOAT, max_concurrent INTEGER, requests_per_minute INTEGER, max_queued
            INTEGER, budget_usd FLOAT, budget_period TEXT, models TEXT NOT NULL, tags TEXT NOT NULL, created_at FLOAT
            NOT NULL, expires_at FLOAT, deleted_at FLOAT, revision INTEGER NOT NULL, PRIMARY KEY (id)
        )""",
        "CREATE INDEX api_keys_by_revision ON api_keys (revision)",
        """CREATE TABLE spending (
            payer TEXT NOT NULL, period TEXT NOT NULL, simulated BOOLEAN NOT NULL, process TEXT NOT NULL, spent FLOAT
            NOT NULL, reserved FLOAT NOT NULL, PRIMARY KEY (payer, period, simulated, process)
        )""",
        """CREATE TABLE audit (
            "at" FLOAT NOT NULL, id TEXT NOT NULL, actor TEXT NOT NULL, actor_name TEXT NOT NULL, action TEXT NOT NULL,
            target TEXT NOT NULL, details TEXT NOT NULL, request_id TEXT NOT NULL, PRIMARY KEY ("at", id)
        )""",
        """CREATE TABLE lost_calls (
            caller_id TEXT NOT NULL, body_fingerprint TEXT NOT NULL, work_id TEXT NOT NULL, accepted_at FLOAT NOT NULL,
            lost_at FLOAT NOT NULL, answered_try INTEGER, unsure BOOLEAN NOT NULL,
            PRIMARY KEY (caller_id, body_fingerprint, work_id)
        )""",
    ),
    7: ("ALTER TABLE batches ADD COLUMN joined TEXT",),
    8: (
        "ALTER TABLE attempts ADD COLUMN seed TEXT",
        *(f"ALTER TABLE attempts ADD COLUMN {each}" for each in _TOKENS),
        "ALTER TABLE attempts ADD COLUMN model_version TEXT",
        "ALTER TABLE attempts ADD COLUMN finish_reason TEXT",
        "ALTER TABLE generations ADD COLUMN resets_at TEXT",
        "ALTER TABLE generations ADD COLUMN text TEXT",
        *(f"ALTER TABLE generations ADD COLUMN {each}" for each in _COUNTS),
        *(f"ALTER TABLE usage_by_day ADD COLUMN {each}" for each in _COUNTS),
        "ALTER TABLE leases ADD COLUMN account TEXT",
        "ALTER TABLE leases ADD COLUMN model TEXT",
        "ALTER TABLE leases ADD COLUMN tokens INTEGER",
        "ALTER TABLE leases ADD COLUMN micro_usd BIGINT",
        "ALTER TABLE leases ADD COLUMN ended_at TIMESTAMP WITH TIME ZONE",
    ),
    9: (
        "ALTER TABLE generations ADD COLUMN verdict TEXT",
        "ALTER TABLE api_keys ADD COLUMN safety TEXT",
    ),
    10: (_TRAINED_MODELS, *(f"ALTER TABLE usage_by_day ADD COLUMN {each}" for each in _OF_TRAININGS)),
}
"""The statements that migrate a ledger in PostgreSQL from a version to the next, by the former. Version 5 is the first
that PostgreSQL has. A released step is never changed. A version that changes only one of the two databases has an empty
step for the other.

Processes of the version before write and read meanwhile, so a step takes milliseconds with any number of rows. Writes
wait for it. A query locks several tables, `generations` before `attempts`, and others in any order. A step that changes
two of those may be in a deadlock with it, and the server fails one of both."""

PRESENT: Final = 1 + len(STEPS)
"""The version of a new ledger."""

POSTGRES_COMPATIBLE: Final = 5
"""The oldest version of a process that may use a ledger of the present version in PostgreSQL. All steps since then only
add tables, and columns that a process of that version need not know: they may be NULL, or have a default, and it does
right by work if it leaves them as they are. After any other step, this is the present version. Then an upgrade must
stop all processes."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What a process knows of the tables in PostgreSQL: their `version`, the oldest version of a process that may use
    them, and the steps to this version."""

    version: int
    compatible: int
    steps: Mapping[int, Sequence[str]]


POSTGRES: Final = Schema(PRESENT, POSTGRES_COMPATIBLE, POSTGRES_STEPS)

NAME: Final = "name"
"""The name of the value in `meta` that is the random name of the ledger."""

_CACHE: Final = "PRAGMA cache_size = -262144"
"""256 MB during a migration: ids are random, so each row changes another page of the index."""
_USUAL_CACHE: Final = "PRAGMA cache_size = -2000"


class TooNew(Exception):
    """A later version of this service wrote the ledger."""


def migrate(connection: Connection, steps: Sequence[Step] = STEPS) -> None:
    """Create the tables, or migrate those of an older version, in one transaction. Raises TooNew."""
    driver = connection.connection.driver_connection  # several times as fast as SQLAlchemy
    assert isinstance(driver, sqlite3.Connection)  # noqa: S101 - the engine is SQLite's
    present = 1 + len(steps)
    if 0 < _version(driver) < present:
        _copy(driver, Path(str(connection.engine.url.database)))
        driver.execute(_CACHE)
    driver.execute("BEGIN IMMEDIATE")
    try:
        version = _version(driver)
        if version > present:
            raise TooNew(f"it is of version {version}, and this service knows {present}")
        if version == 0:
            create_tables(connection, METADATA, sqlite.dialect)
        else:
            for step in steps[version - 1 :]:
                step(driver)
        if version != present:
            driver.execute(f"PRAGMA user_version = {present}")
        add_first_values(connection, sqlite.insert)
    except BaseException:
        driver.execute("ROLLBACK")
        raise
    driver.execute("COMMIT")
    driver.execute(_USUAL_CACHE)


def add_first_values(connection: Connection, insert: Insert) -> None:
    """Give a new ledger its random values. A ledger that has them keeps them."""
    values = [
        {"name": NAME, "value": secrets.token_bytes(16)},
        {"name": HASH_KEY, "value": secrets.token_bytes(32)},
    ]
    connection.execute(insert(META).on_conflict_do_nothing(), values)


def name_of(connection: Connection) -> bytes | None:
    """The random name of this ledger, which a new one in its place would not have. None if the file is no ledger."""
    if connection.exec_driver_sql("PRAGMA user_version").scalar_one() == 0:
        return None
    return connection.execute(select(META.c.value).where(META.c.name == NAME)).scalar_one_or_none()


def _version(driver: sqlite3.Connection) -> int:
    version: int = driver.execute("PRAGMA user_version").fetchone()[0]
    return version


def _copy(driver: sqlite3.Connection, path: Path) -> None:
    """Copy the file beside itself, whole or not at all. It replaces an earlier copy."""
    copy = path.with_name(f"{path.name}.version-{_version(driver)}")
    part = copy.with_name(copy.name + ".part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    with closing(sqlite3.connect(part)) as target:
        driver.backup(target)
    part.rename(copy)
