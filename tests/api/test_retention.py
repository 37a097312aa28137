"""Ended work is deleted after some days, in small steps, and `/usage` goes on counting it."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from contract.trainings import TRAINING
from errors import LedgerDown
from generations.archive import Archive
from generations.retention import EVERY, FIRST, PAUSE, STEP, Retention
from ledger import DAY, Period
from ledger.memory import MemoryLedger
from ledger.records import AttemptRecord, GenerationRecord
from tests.support.api_client import PICTURE, ended, submit, submit_batch
from tests.support.callers import ADMIN, USER
from tests.support.problem_documents import problem
from tests.support.records import generation
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import AtOnce

NOW = 1000 * DAY + 40_000.0
"""Within a day."""


class Commits(MemoryLedger):
    """A ledger that records the time of each flush and its number of generations then."""

    def __init__(self):
        super().__init__()
        self.flushed = []

    async def flush(self):
        await super().flush()
        self.flushed.append((asyncio.get_running_loop().time(), len(self.rows[GenerationRecord])))


def old(name, days, **facts):
    """A generation that ended this many days and one second before today began."""
    return generation(name, state="succeeded", ended_at=1000 * DAY - days * DAY - 1, **facts)


async def with_records(*records, ledger=None):
    ledger = ledger or MemoryLedger()
    for each in records:
        ledger.upsert(each)
    await ledger.flush()
    return ledger


def retention(ledger, *, days=2, files_ttl=0.0, weights_ttl=None, clock=lambda: NOW):
    archive = Archive(ledger=ledger, queries=ledger, threads=AtOnce())
    return Retention(
        ledger=ledger, archive=archive, days=days, files_ttl=files_ttl, weights_ttl=weights_ttl, clock=clock
    )


def left_in(ledger):
    return [each.id for each in ledger.all(GenerationRecord)]


@in_virtual_time
async def test_only_whole_days_are_deleted():
    """Two days ago lies within a day that is not completely old enough."""
    limit = 998 * DAY
    ledger = await with_records(
        generation("a", state="failed", ended_at=limit - 0.01),
        generation("b", state="failed", ended_at=limit),
        generation("c", state="failed", ended_at=NOW),
        generation("d"),
    )

    await retention(ledger).delete_old()

    assert ["b", "c", "d"] == left_in(ledger)


@in_virtual_time
async def test_stored_files_keep_their_generation_while_they_are_served():
    ledger = await with_records(
        old("a", 3),
        old("b", 3, files=("0.png",)),
        old("c", 7, files=("0.png",)),
        old("d", 6, files=("0.png",)),
    )

    await retention(ledger, files_ttl=7 * DAY).delete_old()

    assert ["b", "d"] == left_in(ledger)


@in_virtual_time
async def test_a_training_is_kept_with_its_weights_and_deleted_without_them():
    ledger = await with_records(
        old("trn_a", 9, files=("trained.tar",), door=TRAINING), old("trn_b", 9, door=TRAINING)
    )

    await retention(ledger, files_ttl=7 * DAY).delete_old()
    assert ["trn_a"] == left_in(ledger)

    await with_records(replace(ledger.generation("trn_a"), files=()), ledger=ledger)
    await retention(ledger, files_ttl=7 * DAY).delete_old()
    assert [] == left_in(ledger)


@in_virtual_time
async def test_a_training_is_deleted_once_its_weights_have_expired():
    weights = {"files": ("trained.tar",), "door": TRAINING}
    ledger = await with_records(
        old("trn_a", 8, **weights), old("trn_b", 9, **weights), old("a", 3, files=("0.png",))
    )

    await retention(ledger, files_ttl=20 * DAY, weights_ttl=9 * DAY).delete_old()

    assert ["trn_a", "a"] == left_in(ledger)


@in_virtual_time
async def test_a_search_keeps_work_that_ended_since_a_day_before_its_creation():
    doubt = AttemptRecord(generation_id="x", number=1, model="m", open=True, submitted_at=990 * DAY + 5.0)
    ledger = await with_records(
        old("a", 11), old("b", 10), old("c", 5), generation("x", state="submitting", attempts=(doubt,))
    )

    await retention(ledger).delete_old()

    assert ["b", "c", "x"] == left_in(ledger)


@in_virtual_time
async def test_deletion_begins_minutes_after_the_start_and_repeats_hourly():
    now = [NOW]
    ledger = await with_records(old("a", 2))
    task = asyncio.create_task(retention(ledger, clock=lambda: now[0]).run())
    await asyncio.sleep(FIRST - 1)
    assert ["a"] == left_in(ledger)
    await asyncio.sleep(2)
    assert [] == left_in(ledger)

    await with_records(old("b", 0), ledger=ledger)
    await asyncio.sleep(EVERY)
    assert ["b"] == left_in(ledger)
    now[0] += 2 * DAY
    await asyncio.sleep(EVERY + 1)
    assert [] == left_in(ledger)
    task.cancel()


@in_virtual_time
async def test_many_rows_are_deleted_in_small_steps_with_pauses():
    ledger = await with_records(*(old(f"g{number}", 5) for number in range(3 * STEP + 1)), ledger=Commits())
    ledger.flushed.clear()

    with capture_logs() as logs:
        await retention(ledger).delete_old()

    times, left = zip(*ledger.flushed, strict=True)
    assert (2 * STEP + 1, STEP + 1, 1, 0) == left
    assert [0.0, PAUSE, 2 * PAUSE, 3 * PAUSE] == pytest.approx(times)
    assert [("retention_completed", 3 * STEP + 1)] == [(each["event"], each["count"]) for each in logs]


@in_virtual_time
async def test_deletion_is_retried_after_an_hour_if_the_ledger_is_down_and_usage_counts_once():
    ledger = await with_records(old("a", 5), old("b", 5))
    ledger.trouble = "The disk is full."
    with pytest.raises(LedgerDown):
        await retention(ledger).delete_old()
    assert ["a", "b"] == left_in(ledger)

    ledger.trouble = None
    task = asyncio.create_task(retention(ledger).run())
    await asyncio.sleep(FIRST + 5)

    assert [] == left_in(ledger)
    assert [2] == [row["generations"] for row in ledger.usage(Period(simulated=True), by=())]
    task.cancel()


@in_virtual_time
async def test_an_exception_ends_one_deletion_and_not_the_next(monkeypatch):
    ledger = await with_records(old("a", 5))
    keeper = retention(ledger)
    troubles = [LedgerDown("locked"), RuntimeError("never thought of")]

    def fails(*arguments, **named):
        if troubles:
            raise troubles.pop(0)
        return MemoryLedger.forgettable(ledger, *arguments, **named)

    monkeypatch.setattr(ledger, "forgettable", fails)
    with capture_logs() as logs:
        task = asyncio.create_task(keeper.run())
        await asyncio.sleep(FIRST + 2 * EVERY + 5)

    assert [("retention_failed", "warning"), ("retention_failed", "error")] == [
        (each["event"], each["log_level"]) for each in logs[:2]
    ]
    assert [] == left_in(ledger)
    task.cancel()


@in_virtual_time
async def test_a_crash_between_two_steps_neither_loses_nor_repeats_usage():
    ledger = await with_records(*(old(f"g{number}", 5, cost_usd=0.25) for number in range(2 * STEP)))
    before = ledger.usage(Period(simulated=True), by=("day",))
    task = asyncio.create_task(retention(ledger).delete_old())
    await asyncio.sleep(PAUSE / 2)
    task.cancel()
    ledger.crash()
    after = MemoryLedger(ledger.rows)
    assert STEP == len(left_in(after))
    assert before == after.usage(Period(simulated=True), by=("day",))

    await retention(after).delete_old()

    assert [] == left_in(after)
    assert before == after.usage(Period(simulated=True), by=("day",))


# The whole service


def age(path, days) -> None:
    """Shift everything in a closed ledger this many days into the past."""
    moments = {
        "generations": ("accepted_at", "ended_at"),
        "batches": ("accepted_at", "ended_at"),
        "deliveries": ("since", "delivered_at"),
        "attempts": ("submitted_at", "answered_at", "created_at"),
    }
    with closing(sqlite3.connect(path / "ledger.db")) as ledger, ledger:
        for table, columns in moments.items():
            ledger.execute(f"UPDATE {table} SET " + ", ".join(f"{c} = {c} - {days * DAY}" for c in columns))


def forget(app) -> None:
    service = app.extensions["service"]
    service.loop.run(service.core.retention.delete_old())


def usage(client):
    queries = ("", "?group_by=model", "?group_by=caller", "?group_by=day")
    return [client.get(f"/usage{query}", headers=by).json for query in queries for by in (ADMIN, USER)]


def test_deleted_work_is_not_found_and_usage_and_lists_continue(make_app, tmp_path):
    app = make_app(FILES_TTL=0)
    one, other = submit(app.test_client(), by=ADMIN), submit(app.test_client(), "[[fail]]")
    batch = submit_batch(app.test_client(), "a", "[[fail]]")
    for target in (one, other, batch):
        ended(app.test_client(), target, by=ADMIN)
    app.extensions["service"].close()
    age(tmp_path, days=5)
    app = make_app(FILES_TTL=0, LEDGER_KEEP_DAYS=3)
    client = app.test_client()
    recent = submit(client)
    ended(client, recent)
    before = usage(client)
    assert 5 == before[0]["total"]["generations"]

    forget(app)

    for target in (f"/generations/{one}", f"/generations/{other}", f"/batches/{batch}"):
        problem(client.get(target, headers=ADMIN), 404, "not_found")
    assert [recent] == [each["id"] for each in client.get("/generations", headers=USER).json["generations"]]
    assert before == usage(client)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
        counts = [
            ledger.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("generations", "attempts", "batches", "deliveries")
        ]
    assert [1, 1, 0, 0] == counts


def test_a_key_keeps_its_work_from_deletion(make_app, tmp_path):
    keyed = USER | {"Idempotency-Key": "k"}
    app = make_app(FILES_TTL=0)
    first = app.test_client().post("/generate", json=PICTURE, headers=keyed).json["id"]
    app.extensions["service"].close()
    age(tmp_path, days=5)  # everything but the key, as when a clock was set back
    app = make_app(FILES_TTL=0, LEDGER_KEEP_DAYS=2)

    forget(app)

    assert first == app.test_client().post("/generate", json=PICTURE, headers=keyed).json["id"]


def test_by_default_nothing_is_deleted(app):
    assert app.extensions["service"].core.retention is None


def test_costs_of_deleted_work_count_in_the_budget_of_their_day(make_app, tmp_path):
    """A clock that was ahead may have deleted work that ended today."""
    app = make_app(FILES_TTL=0, LEDGER_KEEP_DAYS=2, BUDGET_USD_PER_DAY=0.03)
    client = app.test_client()
    ended(client, submit(client, by=ADMIN), by=ADMIN)
    service = app.extensions["service"]
    service.core.retention.clock = lambda: 10**10
    forget(app)
    assert [] == client.get("/generations", headers=ADMIN).json["generations"]
    service.close()

    client = make_app(FILES_TTL=0, LEDGER_KEEP_DAYS=2, BUDGET_USD_PER_DAY=0.03).test_client()

    problem(client.post("/generate", json=PICTURE, headers=ADMIN), 402, "budget_exceeded")
