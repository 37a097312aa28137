"""From version 1 of a SQLite ledger, that of 0.4.0, to version 2.

Version 1 kept the JSON of answers (`facts`) and of attempts (`tries`); version 2 keeps facts in columns and attempts in
a table of their own. SQLite moves the rows by itself, which takes half the time of a loop here. This step has been
released, so it stays as it is.
"""

import re
import sqlite3
from datetime import datetime
from typing import Final

_TABLES: Final = """
CREATE TABLE generations (
    seq INTEGER NOT NULL, id TEXT NOT NULL, caller_id TEXT NOT NULL, batch_id TEXT, position INTEGER, state TEXT NOT
    NULL, model TEXT NOT NULL, requested_model TEXT NOT NULL, prompt TEXT NOT NULL, file_name TEXT, lists_attempts
    BOOLEAN NOT NULL, request TEXT, request_id TEXT NOT NULL, webhook TEXT, address TEXT NOT NULL, simulated BOOLEAN
    NOT NULL, accepted_at FLOAT NOT NULL, ended_at FLOAT, cancelled BOOLEAN NOT NULL, suspended_at FLOAT,
    queued_seconds FLOAT NOT NULL, predicting_seconds FLOAT NOT NULL, total_seconds FLOAT NOT NULL, outputs JSON NOT
    NULL, files JSON NOT NULL, files_error TEXT, placeholder BOOLEAN NOT NULL, error_code TEXT, error_detail TEXT,
    error_retryable BOOLEAN, error_problems JSON, cost_usd FLOAT NOT NULL, reserved_usd FLOAT NOT NULL, images
    INTEGER NOT NULL, video_seconds FLOAT NOT NULL, credits INTEGER NOT NULL, PRIMARY KEY (seq)
);
CREATE TABLE attempts (
    generation_id TEXT NOT NULL, number INTEGER NOT NULL, model TEXT NOT NULL, prediction_id TEXT, error_code TEXT,
    error_detail TEXT, error_retryable BOOLEAN, error_problems JSON, changes JSON NOT NULL, cost_usd FLOAT NOT NULL,
    open BOOLEAN NOT NULL, submitted_at FLOAT, answered_at FLOAT, fingerprint TEXT NOT NULL, created_at FLOAT,
    passed_over BOOLEAN NOT NULL, PRIMARY KEY (generation_id, number)
) WITHOUT ROWID;
CREATE TABLE batches (
    id TEXT NOT NULL, caller_id TEXT NOT NULL, total INTEGER NOT NULL, request TEXT NOT NULL, max_concurrent
    INTEGER, max_cost_usd FLOAT, webhook TEXT, plan_strategy TEXT NOT NULL, plan_seconds FLOAT NOT NULL,
    plan_cost_usd FLOAT NOT NULL, plan_credits INTEGER NOT NULL, address TEXT NOT NULL, simulated BOOLEAN NOT NULL,
    accepted_at FLOAT NOT NULL, ended_at FLOAT, PRIMARY KEY (id)
);
CREATE TABLE idempotency_keys (
    caller_id TEXT NOT NULL, "key" TEXT NOT NULL, fingerprint TEXT NOT NULL, work_id TEXT NOT NULL, created_at FLOAT
    NOT NULL, PRIMARY KEY (caller_id, "key")
) WITHOUT ROWID
"""

_INDEXES: Final = """
CREATE INDEX generations_by_batch ON generations (batch_id) WHERE batch_id IS NOT NULL;
CREATE UNIQUE INDEX generations_by_id ON generations (id);
CREATE INDEX generations_by_caller ON generations (caller_id);
CREATE INDEX generations_by_end ON generations (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX generations_unfinished ON generations (seq) WHERE ended_at IS NULL;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at)
"""

_MOVES: Final = """
INSERT INTO generations SELECT
    seq, id, caller, batch, position, state, model, json_extract(facts, '$.requested_model'),
    json_extract(facts, '$.prompt'), json_extract(facts, '$.file_name'), json_type(facts, '$.attempts') = 'array',
    request, request_id, webhook, address, simulated, accepted_at, ended_at, cancelled, interrupted_at,
    json_extract(facts, '$.timing.queued'), json_extract(facts, '$.timing.predicting'),
    json_extract(facts, '$.timing.total'), json_extract(facts, '$.output'), json_extract(facts, '$.files'),
    json_extract(facts, '$.files_error'), json_extract(facts, '$.placeholder'), json_extract(facts, '$.error.code'),
    json_extract(facts, '$.error.detail'), json_extract(facts, '$.error.retryable'),
    json_extract(facts, '$.error.errors'), cost_usd, reserved_usd, images, video_seconds, credits
FROM generations_1;
INSERT INTO attempts SELECT
    id, key + 1, json_extract(value, '$.told.model_name'), json_extract(value, '$.told.prediction_id'),
    json_extract(value, '$.told.error.code'), json_extract(value, '$.told.error.detail'),
    json_extract(value, '$.told.error.retryable'), json_extract(value, '$.told.error.errors'),
    json_extract(value, '$.told.changes'), json_extract(value, '$.cost'), json_extract(value, '$.open'),
    json_extract(value, '$.submitted_at'), json_extract(value, '$.answered_at'), json_extract(value, '$.content'),
    unix_time(json_extract(value, '$.created_at')), json_extract(value, '$.passed_over')
FROM (SELECT generations_1.id, each.key, each.value FROM generations_1, json_each(generations_1.tries) AS each)
ORDER BY id, key;
INSERT INTO batches SELECT
    id, caller, total, request, max_concurrent, max_cost_usd, webhook, json_extract(plan, '$.strategy'),
    json_extract(plan, '$.seconds'), json_extract(plan, '$.cost_usd'), json_extract(plan, '$.credits'), address,
    simulated, accepted_at, ended_at
FROM batches_1;
INSERT INTO idempotency_keys SELECT caller, key, fingerprint, target, since FROM keys_1
"""

_OLD: Final = ("generations", "batches", "keys")
_OLD_INDEXES: Final = (
    "generations_by_caller", "generations_by_end", "generations_by_batch", "generations_unfinished", "keys_by_age",
)  # fmt: skip

_ESCAPE: Final = re.compile(r"\\(?:ud[89ab]..\\ud[c-f]..|(ud[89a-f]..|u0000)|.)")
"""One escape of JSON, or the two of a surrogate pair. The group is what JSON may hold and a column of text may not:
half of a surrogate pair, or NUL, where SQLite cuts the text off."""


def facts_in_columns(driver: sqlite3.Connection) -> None:
    """Build the tables of version 2 from those of version 1, inside the caller's transaction."""
    driver.create_function("storable", 1, _storable, deterministic=True)
    driver.create_function("unix_time", 1, _unix_time, deterministic=True)
    driver.execute(
        r"UPDATE generations SET facts = storable(facts), tries = storable(tries) WHERE instr(facts, '\ud')"
        r" OR instr(facts, '\u0000') OR instr(tries, '\ud') OR instr(tries, '\u0000')"
    )
    for index in _OLD_INDEXES:
        driver.execute(f"DROP INDEX {index}")
    for table in _OLD:
        driver.execute(f"ALTER TABLE {table} RENAME TO {table}_1")
    for statement in (*_TABLES.split(";"), *_MOVES.split(";")):
        driver.execute(statement)
    for table in _OLD:
        driver.execute(f"DROP TABLE {table}_1")
    for statement in _INDEXES.split(";"):  # now, which is faster than with each row
        driver.execute(statement)


def _storable(text: str) -> str:
    return _ESCAPE.sub(lambda found: r"\ufffd" if found[1] else found[0], text)


def _unix_time(moment: str | None) -> float | None:
    return None if moment is None else datetime.fromisoformat(moment).timestamp()
