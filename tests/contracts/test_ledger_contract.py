"""The contract of every ledger: flushed records are read back, the latest record of a key counts, and every
implementation answers a query alike."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import generation

from contract.states import ENDED, UNFINISHED
from errors import LedgerDown
from ledger import Ledger, Page, Period, Queries
from ledger.memory import MemoryLedger
from ledger.queries import SqlQueries
from ledger.records import (
    AttemptRecord,
    BatchRecord,
    Delivery,
    Failure,
    GenerationRecord,
    KeyRecord,
    MetaRecord,
    PlanRecord,
)
from ledger.sqlite import SqliteLedger


@dataclass(frozen=True)
class Opened:
    ledger: Ledger
    queries: Queries
    break_it: Any
    """Makes every write fail from now on."""

    def write(self, *records) -> None:
        """Flush these records. Raises LedgerDown."""

        async def story():
            for each in records:
                self.ledger.upsert(each)
            await self.ledger.flush()

        asyncio.run(story())


@contextmanager
def in_memory() -> Iterator[Opened]:
    ledger = MemoryLedger()
    yield Opened(ledger, ledger, lambda: setattr(ledger, "trouble", "The disk is full."))


@contextmanager
def on_sqlite() -> Iterator[Opened]:
    with tempfile.TemporaryDirectory() as directory:
        ledger = SqliteLedger(f"sqlite:///{Path(directory) / 'ledger.db'}")
        ledger.start()
        try:
            yield Opened(
                ledger,
                SqlQueries(ledger.engine),
                lambda: Path(directory, "ledger.db").rename(Path(directory, "x")),
            )
        finally:
            ledger.close()


LEDGERS = {"memory": in_memory, "sqlite": on_sqlite}
"""Every implementation. A new one is added here."""


@pytest.fixture(params=LEDGERS)
def opened(request) -> Iterator[Opened]:
    with LEDGERS[request.param]() as found:
        yield found


FAILURE = Failure(
    "invalid_request", "fallback: no (and 1 more)", False, ({"field": "a", "message": "b", "given": 3},)
)
ATTEMPTS = (
    AttemptRecord(
        generation_id="gen_1", number=1, model="a/b", prediction_id="p1", error=FAILURE, cost_usd=0.025,
        changes=({"field": "size", "change": "dropped", "given": None, "sent_as": None, "sent": None},),
        submitted_at=5.5, answered_at=6.25, fingerprint="f", created_at=5.75,
    ),
    AttemptRecord(generation_id="gen_1", number=2, model="c/d", open=True, submitted_at=8.0, passed_over=False),
)  # fmt: skip
WHOLE = generation(
    "gen_1", batch_id="batch_1", position=3, state="failed", file_name="fox", lists_attempts=True, request=None,
    webhook="https://hooks.example.com/", address="http://here", ended_at=9.0, cancelled=True, queued_seconds=0.125,
    predicting_seconds=2.5, total_seconds=3.75, outputs=("https://a/1", "text ☃"), files=("0.png", "1.png"),
    files_error="One is gone.", placeholder=True, error=FAILURE, cost_usd=0.03, images=2, video_seconds=1.5, credits=4,
    attempts=ATTEMPTS,
)  # fmt: skip
PLAN = PlanRecord("window", 12.3456789, 0.1, 7)
BATCH = BatchRecord(
    id="batch_1", caller_id="admin", total=4, request="{}", max_concurrent=2, max_cost_usd=0.5, webhook=None, plan=PLAN,
    address="http://here", simulated=True, accepted_at=1.5,
)  # fmt: skip


def test_every_fact_of_a_record_is_read_back(opened):
    key = KeyRecord("anna", "k", "f", "gen_1", 3.5)
    delivery = Delivery("gen_1", "https://hooks.example.com/", 9.0, attempts=2, next_at=20.5, trouble="no")
    opened.write(WHOLE, BATCH, key, delivery, MetaRecord("name", b"\0\xff"))

    queries = opened.queries
    assert replace(WHOLE, seq=1) == queries.generation("gen_1")
    assert BATCH == queries.batch("batch_1")
    assert key == queries.key("anna", "k")
    assert delivery == queries.delivery("gen_1")
    assert b"\0\xff" == queries.meta("name")


def test_what_is_not_there_is_none(opened):
    queries = opened.queries

    assert [None] * 5 == [
        queries.generation("x"),
        queries.batch("x"),
        queries.key("anna", "x"),
        queries.delivery("x"),
        queries.meta("x"),
    ]
    assert not queries.is_unfinished("x")


def test_the_later_record_of_a_key_replaces_the_earlier_and_keeps_its_place_in_line(opened):
    opened.write(generation("a"), generation("b"))
    opened.write(generation("a", state="running"))

    assert [("a", "running", 1), ("b", "queued", 2)] == [
        (each.id, each.state, each.seq) for each in opened.queries.unfinished()
    ]


def test_a_changed_source_is_written_as_it_is_when_it_is_flushed(opened):
    class Source:
        id = "a"
        state = "queued"

        def record(self):
            return generation("a", state=self.state, attempts=(replace(ATTEMPTS[0], generation_id="a"),))

    async def story():
        opened.ledger.mark_dirty(source := Source())
        source.state = "running"
        await opened.ledger.flush()

    asyncio.run(story())

    found = opened.queries.generation("a")
    assert ("running", ("p1",)) == (found.state, tuple(each.prediction_id for each in found.attempts))


def test_a_deleted_record_is_gone_whether_it_was_written_or_not(opened):
    written, unwritten = KeyRecord("anna", "1", "f", "gen_1", 1.0), KeyRecord("anna", "2", "f", "gen_2", 1.0)
    opened.write(written)

    async def story():
        opened.ledger.upsert(unwritten)
        opened.ledger.delete(KeyRecord, "anna", "1")
        opened.ledger.delete(KeyRecord, "anna", "2")
        await opened.ledger.flush()

    asyncio.run(story())

    assert [None, None] == [opened.queries.key("anna", key) for key in "12"]


def test_a_withdrawn_attempt_is_gone_and_may_be_made_anew_under_its_number(opened):
    class Source:
        id = "gen_1"
        attempts = ATTEMPTS

        def record(self):
            return replace(WHOLE, attempts=self.attempts)

    source = Source()

    async def flushed(attempts, *, withdrawn):
        source.attempts = attempts
        opened.ledger.mark_dirty(source)
        if withdrawn:
            opened.ledger.delete(AttemptRecord, "gen_1", 2)
        await opened.ledger.flush()
        return [each.model for each in opened.queries.generation("gen_1").attempts]

    anew = replace(ATTEMPTS[1], model="e/f")
    assert ["a/b", "c/d"] == asyncio.run(flushed(ATTEMPTS, withdrawn=False))
    assert ["a/b"] == asyncio.run(flushed(ATTEMPTS[:1], withdrawn=True))
    assert ["a/b", "e/f"] == asyncio.run(flushed((ATTEMPTS[0], anew), withdrawn=True))


def test_a_ledger_that_cannot_be_written_says_so(opened):
    opened.write(generation("a"))
    opened.break_it()

    with pytest.raises(LedgerDown):
        opened.write(generation("b"))


# Every query, sent to all implementations over the same records.

CALLERS = st.sampled_from(["admin", "user_1"])
MOMENTS = st.sampled_from([0.0, 1.5, 86_399.0, 86_400.0, 200_000.0])
ATTEMPT = st.builds(
    AttemptRecord,
    generation_id=st.just(""), number=st.just(0), model=st.sampled_from(["a/b", "c/d"]),
    prediction_id=st.none() | st.text(max_size=2), cost_usd=st.sampled_from([0.0, 0.025]), open=st.booleans(),
    submitted_at=st.none() | MOMENTS,
)  # fmt: skip
FACTS = st.fixed_dictionaries(
    {
        "caller_id": CALLERS,
        "batch_id": st.sampled_from([None, "batch_0", "batch_1"]),
        "position": st.integers(0, 3),
        "state": st.sampled_from([*UNFINISHED, *ENDED]),
        "model": st.sampled_from(["a/b", "c/d"]),
        "simulated": st.booleans(),
        "accepted_at": MOMENTS,
        "ended_at": MOMENTS,
        "suspended_at": st.none() | MOMENTS,
        "cost_usd": st.sampled_from([0.0, 0.025, 0.5]),
        "images": st.integers(0, 4),
        "video_seconds": st.sampled_from([0.0, 5.0]),
        "credits": st.integers(0, 5),
        "attempts": st.lists(ATTEMPT, max_size=2),
    }
)


def recorded(number: int, facts: dict[str, Any]) -> GenerationRecord:
    """A generation of its own: what has not ended has no end, and positions are each one's own."""
    has_ended = facts["state"] in {"succeeded", "failed", "canceled"}
    name = f"gen_{number}"
    attempts = tuple(
        replace(each, generation_id=name, number=at) for at, each in enumerate(facts["attempts"], 1)
    )
    own = {"attempts": attempts, "position": 10 * facts["position"] + number}
    return generation(name, **facts | own | {"ended_at": facts["ended_at"] if has_ended else None})


def answers(queries: Queries, since: float, before: int) -> dict[str, Any]:
    """What a ledger says to every question."""
    pages = [
        Page("admin", 3),
        Page("user_1", 2, before=before),
        Page("admin", 9, state="failed"),
        Page("admin", 9, model="a/b", since=since),
    ]
    periods = [
        Period(simulated=True),
        Period(simulated=False, caller_id="admin", since=since),
        Period(simulated=True, until=since),
    ]
    return {
        "items": [queries.batch_items(each) for each in ("batch_0", "batch_1")],
        "members": [
            sorted(queries.members(each), key=lambda record: record.id) for each in ("gen_1", "batch_0")
        ],
        "pages": [queries.page(each) for each in pages],
        "unfinished": queries.unfinished(),
        "batches": sorted(queries.unfinished_batches(), key=lambda record: record.id),
        "suspended": queries.suspended(since),
        "attempts": sorted(
            queries.recent_attempts(since), key=lambda each: (each.generation_id, each.number)
        ),
        "keys": sorted(queries.expired_keys(since), key=lambda record: record.key),
        "goes on": [queries.is_unfinished(each) for each in ("gen_0", "gen_1", "batch_0", "batch_1")],
        "cost": {
            day: round(usd, 9) for day, usd in queries.cost_by_day("admin", since, simulated=True).items()
        },
        "usage": [
            [{**row, "usd": round(row["usd"], 9)} for row in queries.usage(period, by=by)]
            for period in periods
            for by in (None, "model", "caller", "day")
        ],
    }


@settings(deadline=None, max_examples=60)
@given(
    st.lists(FACTS, max_size=8),
    st.lists(st.tuples(st.integers(0, 9), MOMENTS), max_size=4, unique_by=lambda key: key[0]),
    st.booleans(),
    MOMENTS,
    st.integers(1, 9),
)
def test_every_ledger_gives_the_same_answer_to_every_question(generations, keys, is_over, since, before):
    records = [
        *(recorded(number, facts) for number, facts in enumerate(generations)),
        BATCH,
        replace(BATCH, id="batch_0", ended_at=3.0 if is_over else None),
        *(KeyRecord("anna", f"k{number}", "f", f"gen_{number}", moment) for number, moment in keys),
    ]
    every = {}
    for name, open_it in LEDGERS.items():
        with open_it() as opened:
            opened.write(*records)
            every[name] = answers(opened.queries, since, before)

    (first, *others) = every.values()
    for other in others:
        assert first == other
