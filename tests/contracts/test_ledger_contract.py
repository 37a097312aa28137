"""The contract of every ledger: flushed records are read back, the latest record of a key counts, and every
implementation answers a query alike."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.states import ENDED, UNFINISHED
from contract.trainings import TRAINING
from errors import LedgerDown
from harness.postgres import NEWEST, server
from ledger import Ledger, Page, Period, Queries
from ledger.access_records import ApiKeyRecord
from ledger.memory import MemoryLedger
from ledger.model_records import LookupRecord, ModelRecord, RunRecord, SchemaRecord
from ledger.money_records import UsageRecord
from ledger.postgres import PostgresBackend
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
    SemaphoreLeaseRecord,
    SemaphoreRecord,
)
from ledger.sqlite import SqliteBackend
from ledger.tables import MAPPINGS
from ledger.writer import SqlLedger
from tests.support.ledgers import running, write
from tests.support.pooler import pooled
from tests.support.records import api_key, generation


@dataclass(frozen=True)
class Opened:
    ledger: Ledger
    queries: Queries
    break_it: Any
    """Makes every write fail from now on."""

    def write(self, *records) -> None:
        """Flush these records. Raises LedgerDown."""
        write(self.ledger, *records)

    def delete(self, *works) -> None:
        """Delete these, given by kind and key, in one flush."""

        async def story():
            for kind, *key in works:
                self.ledger.delete(kind, *key)
            await self.ledger.flush()

        asyncio.run(story())


@contextmanager
def in_memory() -> Iterator[Opened]:
    ledger = MemoryLedger()
    yield Opened(ledger, ledger, lambda: setattr(ledger, "trouble", "The disk is full."))


@contextmanager
def on_sqlite() -> Iterator[Opened]:
    with tempfile.TemporaryDirectory() as directory:
        ledger = SqlLedger(SqliteBackend(f"sqlite:///{Path(directory) / 'ledger.db'}"))
        with running(ledger):
            yield Opened(
                ledger,
                SqlQueries(ledger.engine),
                lambda: Path(directory, "ledger.db").rename(Path(directory, "x")),
            )


@contextmanager
def behind_a_pooler() -> Iterator[Opened]:
    """PostgreSQL, with another connection for each transaction."""
    with pooled(server()) as pooler, on_postgres(host="127.0.0.1", port=str(pooler.port)) as found:
        yield found


@contextmanager
def on_postgres(version: int = NEWEST, **parameters: str) -> Iterator[Opened]:
    with server(version).schema() as schema:
        ledger = SqlLedger(PostgresBackend(server(version).url(schema=schema, **parameters)))
        ledger.start()
        try:
            yield Opened(
                ledger,
                SqlQueries(ledger.engine),
                lambda: server(version).execute(f"ALTER SCHEMA {schema} RENAME TO {schema}_away"),
            )
        finally:
            ledger.close()
            server(version).execute(f"DROP SCHEMA IF EXISTS {schema}_away CASCADE")


LEDGERS = {
    "memory": in_memory,
    "sqlite": on_sqlite,
    "postgresql 18": partial(on_postgres, 18),
    "postgresql 16": partial(on_postgres, 16),
    "postgresql behind a pooler": behind_a_pooler,
}
"""Every implementation. A new one is added here."""

SLOW = {"postgresql 16", "postgresql behind a pooler"}


@pytest.fixture(
    params=[pytest.param(each, marks=pytest.mark.slow if each in SLOW else ()) for each in LEDGERS]
)
def opened(request) -> Iterator[Opened]:
    with LEDGERS[request.param]() as found:
        yield found


@pytest.fixture(scope="module")
def each_ledger() -> Iterator[list[Opened]]:
    """One ledger of each implementation, for many examples: each keeps the statements that it has compiled. The slow
    implementations run the statements of another one."""
    with ExitStack() as stack:
        yield [stack.enter_context(LEDGERS[name]()) for name in LEDGERS.keys() - SLOW]


WRITTEN = (GenerationRecord, AttemptRecord, BatchRecord, KeyRecord, UsageRecord, ApiKeyRecord)
"""The kinds of records that a ledger has after an example."""


def emptied(ledgers: list[Opened]) -> list[Opened]:
    """The ledgers without the records of the last example. Their numbers begin again."""
    for opened in ledgers:
        if isinstance(opened.ledger, MemoryLedger):
            for rows in opened.ledger.rows.values():
                rows.clear()
            continue
        with opened.ledger.engine.begin() as connection:
            for kind in WRITTEN:
                name = MAPPINGS[kind].table.name
                is_numbered = connection.dialect.name == "postgresql"
                connection.exec_driver_sql(
                    f"TRUNCATE {name} RESTART IDENTITY" if is_numbered else f"DELETE FROM {name}"
                )
    return ledgers


FAILURE = Failure(
    "invalid_request", "fallback: no (and 1 more)", False, ({"field": "a", "message": "b", "given": 3},)
)
ATTEMPTS = (
    AttemptRecord(
        generation_id="gen_1", number=1, model="a/b", prediction_id="p1", error=FAILURE, cost_usd=0.025,
        changes=({"field": "size", "change": "dropped", "given": None, "sent_as": None, "sent": None},),
        submitted_at=5.5, answered_at=6.25, fingerprint="f", created_at=5.75, seed="18446744073709551615",
    ),
    AttemptRecord(generation_id="gen_1", number=2, model="c/d", open=True, submitted_at=8.0, passed_over=False),
)  # fmt: skip
WHOLE = generation(
    "gen_1", batch_id="batch_1", position=3, state="failed", file_name="fox", lists_attempts=True, request=None,
    webhook="https://hooks.example.com/", address="http://here", ended_at=9.0, cancelled=True, queued_seconds=0.125,
    predicting_seconds=2.5, total_seconds=3.75, outputs=("https://a/1", "text ☃", {"mesh": [1, None, "nul \0"]}, True),
    files=("0.png", "1.png"), files_error="One is gone.", placeholder=True, error=FAILURE, cost_usd=0.03, images=2,
    video_seconds=1.5, credits=4, semaphore="gpu", version="5c7d" * 16, kind="3d", cost_basis="bounded",
    warnings=("It says “maybe”.", "It is old."), has_secrets=True, attempts=ATTEMPTS,
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
    assert replace(WHOLE, seq=1) == replace(queries.generation("gen_1"), process=None)
    assert BATCH == replace(queries.batch("batch_1"), process=None)
    assert key == replace(queries.key("anna", "k"), process=None)
    assert delivery == replace(queries.delivery("gen_1"), process=None)
    assert b"\0\xff" == queries.meta("name")


def test_values_are_found_by_the_beginning_of_their_names(opened):
    opened.write(*(MetaRecord(name, b"\xff" + name.encode()) for name in ("a_ b", "a_ c", "ax d", "A_ e")))

    assert {"a_ b": b"\xffa_ b", "a_ c": b"\xffa_ c"} == dict(opened.queries.metas("a_ "))
    assert {} == dict(opened.queries.metas("b"))


def test_semaphores_and_their_leases_are_read_back_as_they_were_written_last(opened):
    gpu, lease = SemaphoreRecord("gpu", 3), SemaphoreLeaseRecord("lease_1", "gpu", 60.0, 100.5, "k")
    opened.write(gpu, SemaphoreRecord("db", 1), lease, SemaphoreLeaseRecord("lease_2", "gpu", 5.0, 7.0))
    opened.write(replace(gpu, limit=5), replace(lease, expires_at=160.5))
    opened.delete((SemaphoreRecord, "db"), (SemaphoreLeaseRecord, "lease_2"))

    assert [SemaphoreRecord("gpu", 5)] == list(opened.queries.semaphores())
    assert [replace(lease, expires_at=160.5)] == list(opened.queries.semaphore_leases())


def test_only_work_that_has_not_ended_names_a_semaphore(opened):
    opened.write(
        generation("a", semaphore="gpu"), generation("b", semaphore="db", state="failed", ended_at=2.0)
    )

    assert [True, False, False] == [opened.queries.names_semaphore(each) for each in ("gpu", "db", "other")]


V1, V2 = "1" * 64, "2" * 64


def model(name, reader="", at=5.0, **facts):
    return ModelRecord(reader=reader, name=name, **{"simulated": False, "looked_up_at": at} | facts)


def known(opened, readers, name, *, simulated=False):
    return list(opened.queries.known_model(readers, name, simulated=simulated))


def test_a_model_and_its_schema_are_read_back_as_they_were_written_last(opened):
    first = model("a/b", version=V1, is_official=True, description="Fast ☃", facts='{"run_count": 3}')
    latest = model("a/b", at=6.5, version=V2)
    schema = SchemaRecord(V2, False, "a/b", b"\0\xff{", 6.5)
    opened.write(first)
    assert [first] == known(opened, [""], "a/b")

    opened.write(latest, schema, replace(schema, simulated=True, document=b"{}"))

    assert [latest] == known(opened, [""], "a/b")
    assert schema == opened.queries.schema(V2, simulated=False)
    assert b"{}" == opened.queries.schema(V2, simulated=True).document
    assert opened.queries.schema(V1, simulated=False) is None
    assert [] == known(opened, [""], "a/b", simulated=True)


def test_a_model_is_shown_to_those_who_have_read_it_the_latest_look_up_first(opened):
    public, mine = model("a/b"), model("a/b", "account ann", at=7.0, missing=True)
    theirs, other = model("a/b", "user_eve", at=9.0), model("a/c", "account ann")
    opened.write(public, mine, theirs, other)

    assert [mine, public] == known(opened, ["", "account ann"], "a/b")
    assert [public] == known(opened, ["", "account bob"], "a/b")
    assert [] == known(opened, ["account bob"], "a/b")

    opened.delete((ModelRecord, "", "a/b", False))
    assert [mine] == known(opened, ["", "account ann"], "a/b")


def test_a_version_is_found_by_its_id_for_those_who_have_read_it(opened):
    def found(version, *readers, simulated=False):
        return opened.queries.known_version(readers, version, simulated=simulated)

    named = model(f"a/b:{V1}", "ann", version=V1)
    opened.write(named, model("deployments/a/b", "", version=V1), model(f"a/b:{V2}", "ann", missing=True))

    assert named == found(V1, "", "ann")
    assert [None] * 4 == [
        found(V1, ""),
        found(V2, "ann"),
        found(V1, "ann", simulated=True),
        found("1", "ann"),
    ]


def test_public_models_are_searched_by_all_words_in_their_names_and_descriptions(opened):
    fox, owl = (
        model("zoo/fox", description="Quick and RED"),
        model("zoo/owl", at=8.0, description="100 % wise_"),
    )
    opened.write(
        fox,
        owl,
        model("zoo/ant", missing=True),
        model(f"zoo/fox:{V1}", version=V1),
        model("zoo/bat", "account ann"),
        model("zoo/cat", simulated=True),
    )

    def names(search, limit=9):
        return [each.name for each in opened.queries.known_models(search, limit=limit, simulated=False)]

    assert ["zoo/owl", "zoo/fox"] == names("") == names("ZOO")
    assert ["zoo/owl"] == names("zoo", limit=1)
    assert ["zoo/fox"] == names("red zoo")
    assert ["zoo/owl"] == names("%") == names("wise_")
    assert [] == names("red wise_") + names("e%d") + names("bat") + names("_ox")


def test_missing_models_and_look_ups_are_outdated_after_their_time(opened):
    old, new, found = (
        model("a/b", at=5.0, missing=True),
        model("a/c", at=9.0, missing=True),
        model("a/d", at=1.0),
    )
    over, running = LookupRecord("", "a/b", False, 5.0, True), LookupRecord("ann", "a/c", False, 9.0)
    opened.write(old, new, found, over, running)

    outdated = opened.queries.outdated_models(9.0)

    assert {old, over} == set(outdated)
    opened.delete(*((type(each), each.reader, each.name, each.simulated) for each in outdated))
    assert [] == list(opened.queries.outdated_models(9.0))
    assert [running] == list(opened.queries.lookups(["", "ann"], "a/c", simulated=False))
    assert [] == list(opened.queries.lookups(["", "ann"], "a/b", simulated=False))
    assert [new] == known(opened, [""], "a/c")


def test_measured_seconds_are_a_sample_for_each_target(opened):
    opened.write(
        RunRecord("a/b", False, 0, 2.5), RunRecord("a/b", False, 63, 0.5), RunRecord("a/b", True, 1, 7.0)
    )
    opened.write(RunRecord("a/b", False, 0, 3.5), RunRecord("a/b:1", False, 0, 9.0))

    def seconds(target, *, simulated=False):
        return sorted(opened.queries.running_seconds(target, simulated=simulated))

    assert [0.5, 3.5] == seconds("a/b")
    assert [7.0] == seconds("a/b", simulated=True)
    assert [9.0] == seconds("a/b:1")
    assert [] == seconds("a")


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


def test_a_process_finds_what_it_has_taken_over_until_it_writes_it_itself(opened):
    me, queries = opened.ledger.process or "me", opened.queries
    mine, taken = {"process": me}, {"process": me, "taken_at": 1.0}
    delivery = Delivery("a", "https://a.test", 1.0)
    opened.write(
        generation("a", **taken),
        generation("b", **mine),
        generation("c", state="failed", ended_at=2.0, **taken),
        replace(BATCH, id="batch_1", ended_at=None, **taken),
        replace(BATCH, id="batch_2", ended_at=None, **mine),
        replace(delivery, **taken),
        replace(delivery, id="b", **mine),
        replace(delivery, id="c", state="delivered", **taken),
    )

    def found(process):
        every = (queries.unfinished, queries.unfinished_batches, queries.pending_deliveries)
        return [sorted(each.id for each in query(process)) for query in every]

    assert [["a", "b"], ["batch_1", "batch_2"], ["a", "b"]] == found(None)
    assert [["a"], ["batch_1"], ["a"]] == found(me)
    assert [[], [], []] == found("another")
    opened.write(generation("a", **mine), replace(BATCH, id="batch_1", ended_at=None), delivery)
    assert [[], [], []] == found(me)


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
        opened.ledger.delete(KeyRecord, "anna", "1", "gen_1")
        opened.ledger.delete(KeyRecord, "anna", "2", "gen_2")
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

IDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=2)  # PostgreSQL stores no NUL
CALLERS = st.sampled_from(["admin", "user_1", "key_1", "key_2", "key_3"])
NAMED = [
    api_key(1, name="shop", tags='{"team": "a", "größe": "x"}'),
    api_key(2, name="shop", tags="{}", deleted_at=5.0),
]
METADATA = st.sampled_from([None, '{"project": "a"}', '{"x y.\\"z": "1", "project": "it\'s %"}'])
KEPT_GROUPS = [
    (),
    ("model",),
    ("caller",),
    ("day",),
    ("key",),
    ("tag:team",),
    ("day", "key"),
    ("tag:größe", "model"),
]
"""Groups that deleted generations have, too."""

GROUPINGS = [*KEPT_GROUPS, ("metadata:project",), ('metadata:x y."z', "tag:team")]
MOMENTS = st.sampled_from([0.0, 1.5, 86_399.0, 86_400.0, 200_000.0])
ATTEMPT = st.builds(
    AttemptRecord,
    generation_id=st.just(""), number=st.just(0), model=st.sampled_from(["a/b", "c/d"]),
    prediction_id=st.none() | IDS, cost_usd=st.sampled_from([0.0, 0.025]), open=st.booleans(),
    submitted_at=st.none() | MOMENTS, answered_at=st.none() | MOMENTS,
)  # fmt: skip
FACTS = st.fixed_dictionaries(
    {
        "caller_id": CALLERS,
        "batch_id": st.sampled_from([None, "batch_0", "batch_1"]),
        "position": st.integers(0, 3),
        "state": st.sampled_from([*UNFINISHED, *ENDED]),
        "model": st.sampled_from(["a/b", "c/d"]),
        "metadata": METADATA,
        "kind": st.sampled_from([None, "image", "video"]),
        "door": st.sampled_from([None, "openai", TRAINING]),
        "prompt": st.sampled_from(["A red Fox", "ÜBER 100 %_", "a\\b/c"]),
        "simulated": st.booleans(),
        "accepted_at": MOMENTS,
        "ended_at": MOMENTS,
        "suspended_at": st.none() | MOMENTS,
        "cost_usd": st.sampled_from([0.0, 0.025, 0.5]),
        "images": st.integers(0, 4),
        "video_seconds": st.sampled_from([0.0, 5.0]),
        "credits": st.integers(0, 5),
        "files": st.sampled_from([(), ("0.png",)]),
        "attempts": st.lists(ATTEMPT, max_size=2),
    }
)


def name_of(number: int, facts: dict[str, Any]) -> str:
    """The id of this generation."""
    return f"{'trn' if facts['door'] == TRAINING else 'gen'}_{number}"


def recorded(number: int, facts: dict[str, Any]) -> GenerationRecord:
    """A generation of its own: what has not ended has no end, and positions are each one's own."""
    has_ended = facts["state"] in {"succeeded", "failed", "canceled"}
    name = name_of(number, facts)
    attempts = tuple(
        replace(each, generation_id=name, number=at) for at, each in enumerate(facts["attempts"], 1)
    )
    own = {"attempts": attempts, "position": 10 * facts["position"] + number}
    return generation(name, **facts | own | {"ended_at": facts["ended_at"] if has_ended else None})


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(each, 9) if isinstance(each, float) else each for name, each in row.items()}


def answers(queries: Queries, since: float, before: int) -> dict[str, Any]:
    """What a ledger says to every question."""
    pages = [
        Page("admin", 3),
        Page("user_1", 2, before=before),
        Page("admin", 9, state="failed"),
        Page("admin", 9, model="a/b", since=since),
        Page(None, 9),
        Page(None, 9, key_name="shop"),
        *(Page(caller_id, 4, training=is_it) for caller_id in (None, "admin") for is_it in (True, False)),
        Page("key_1", 9, kind="image", batch_id="batch_1"),
        *(Page(None, 9, prompt=part) for part in ("RED", "über", "%_", "_", "\\B/", "'", "A")),
        Page(None, 9, metadata=(("project", "a"),)),
        Page(None, 9, metadata=(('x y."z', "1"), ("project", "it's %"))),
    ]
    periods = [
        Period(simulated=True),
        Period(simulated=False, caller_id="admin", since=since),
        Period(simulated=True, until=since),
    ]
    return {
        "items": [queries.batch_items(each) for each in ("batch_0", "batch_1")],
        "members": [
            sorted(queries.members(each), key=lambda record: record.id)
            for each in (["gen_1", "trn_0"], ["batch_0"], ["batch_1", "gen_1", "gen_2"], [])
        ],
        "progress": queries.progress(["gen_0", "gen_1", "batch_0", "batch_1", "batch_2"]),
        "ended items": [sorted(queries.ended_items(each)) for each in ("batch_0", "batch_1")],
        "pages": [queries.page(each) for each in pages],
        "listed batches": [
            [each.id for each in queries.batches(*whose, limit=9, before=place)]
            for whose in (("admin",), (None,), ("user_1",))
            for place in (None, (1.5, "batch_1"), (1.5, "batch_2"))
        ],
        "states": {
            batch_id: {state: (count, round(usd, 9)) for state, (count, usd) in states.items()}
            for batch_id, states in queries.batch_states(["batch_0", "batch_1", "batch_2"]).items()
        },
        "unfinished": queries.unfinished(),
        "batches": sorted(queries.unfinished_batches(), key=lambda record: record.id),
        "suspended": queries.suspended(since),
        "attempts": sorted(
            queries.recent_attempts(since), key=lambda each: (each.generation_id, each.number)
        ),
        "work of keys": queries.recent_work_of_keys(since),
        "present work": [queries.present_work(each, since) for each in ("admin", "user_1", "key_1", "key_9")],
        "keys": sorted(queries.expired_keys(since), key=lambda record: record.key),
        "doubt": queries.oldest_doubt(),
        "forgettable": [
            queries.forgettable(since, files_before=before * 30_000.0, weights_before=moment, most=3)
            for moment in (None, 100_000.0)
        ],
        "goes on": [queries.is_unfinished(each) for each in ("gen_0", "gen_1", "batch_0", "batch_1")],
        "cost": {
            day: round(usd, 9) for day, usd in queries.cost_by_day("admin", since, simulated=True).items()
        },
        "failures": [queries.failures(since, simulated=simulated) for simulated in (True, False)],
        "usage": [
            [rounded(row) for row in queries.usage(period, by=by)] for period in periods for by in GROUPINGS
        ],
    }


def unowned(answer: Any) -> Any:
    """The answer without the process that runs a piece of work, which only a shared ledger names."""
    if isinstance(answer, dict):
        return {name: unowned(each) for name, each in answer.items()}
    if isinstance(answer, list):
        return [unowned(each) for each in answer]
    return replace(answer, process=None) if hasattr(answer, "process") else answer


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(
    st.lists(FACTS, max_size=8),
    st.lists(st.tuples(st.integers(0, 9), MOMENTS), max_size=4, unique_by=lambda key: key[0]),
    st.booleans(),
    MOMENTS,
    st.integers(1, 9),
)
def test_every_ledger_answers_every_query_alike(each_ledger, generations, keys, is_over, since, before):
    records = [
        *NAMED,
        *(recorded(number, facts) for number, facts in enumerate(generations)),
        BATCH,
        replace(BATCH, id="batch_0", ended_at=3.0 if is_over else None),
        *(KeyRecord("anna", f"k{number}", "f", f"gen_{number}", moment) for number, moment in keys),
    ]
    every = []
    for opened in emptied(each_ledger):
        opened.write(*records)
        written = answers(opened.queries, since, before)
        opened.delete(*opened.queries.forgettable(1e6, files_before=since, most=9))
        every.append([written, answers(opened.queries, since, before)])

    (first, *others) = [unowned(each) for each in every]
    for other in others:
        assert first == other


# Deletions


def usage(queries: Queries) -> list[Any]:
    """What was made and spent, in all periods of whole days and by every group."""
    periods = [
        Period(simulated=True),
        Period(simulated=False),
        Period(True, "user_1", since=86_400.0),
        Period(True, "admin", until=86_400.0),
        Period(True, since=86_400.0, until=172_800.0),
    ]
    rows = [queries.usage(period, by=by) for period in periods for by in KEPT_GROUPS]
    costs = [queries.cost_by_day("admin", since, simulated=True) for since in (0.0, 86_400.0)]
    return [
        [rounded(row) for each in rows for row in each],
        [{day: round(usd, 9) for day, usd in each.items()} for each in costs],
    ]


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(st.lists(FACTS, max_size=8), st.sets(st.integers(0, 7)), st.booleans())
def test_usage_is_the_same_by_whole_days_whatever_was_deleted(
    each_ledger, generations, deleted, is_batch_deleted
):
    generations = [facts if facts["state"] in ENDED else facts | {"state": "failed"} for facts in generations]
    records = [recorded(number, facts) for number, facts in enumerate(generations)]
    names = {each.id: number for number, each in enumerate(records)}
    for opened in emptied(each_ledger):
        opened.write(*records, BATCH)
        before = usage(opened.queries)

        opened.delete(*((GenerationRecord, name) for name, number in names.items() if number in deleted))
        if is_batch_deleted:
            opened.delete((BatchRecord, "batch_1"))

        assert before == usage(opened.queries)
        left = [each.id for each in records if int(each.id[4:]) not in deleted]
        if is_batch_deleted:
            left = [each for each in left if records[int(each[4:])].batch_id != "batch_1"]
        assert left == [each for each in names if opened.queries.generation(each)]


def test_a_deleted_generation_goes_with_its_attempts_and_its_delivery(opened):
    other = replace(ATTEMPTS[0], generation_id="gen_2")
    opened.write(
        replace(WHOLE, batch_id=None),
        generation("gen_2", attempts=(other,)),
        *(Delivery(each, "https://hooks.example.com/", 9.0, "delivered") for each in ("gen_1", "gen_2")),
    )

    opened.delete((GenerationRecord, "gen_1"))
    opened.delete((GenerationRecord, "gen_1"))

    queries = opened.queries
    assert (None, None) == (queries.generation("gen_1"), queries.delivery("gen_1"))
    assert [other] == queries.recent_attempts(0.0)
    assert queries.delivery("gen_2") is not None
    assert [1] == [row["generations"] for row in queries.usage(Period(simulated=True), by=())]


def test_a_generation_that_had_not_ended_is_deleted_without_a_trace_in_usage(opened):
    opened.write(generation("gen_1", cost_usd=0.5))

    opened.delete((GenerationRecord, "gen_1"))

    assert [0] == [row["generations"] for row in opened.queries.usage(Period(simulated=True), by=())]


def test_a_deleted_batch_goes_with_its_generations_and_all_deliveries(opened):
    ended = {"batch_id": "batch_1", "state": "succeeded", "ended_at": 9.0, "attempts": ()}
    items = [replace(WHOLE, id=f"gen_{number}", position=number, **ended) for number in range(3)]
    deliveries = [
        Delivery(each, "https://a.example/", 9.0, "failed") for each in ("batch_1", "gen_0", "gen_x")
    ]
    opened.write(*items, generation("gen_x"), replace(BATCH, ended_at=9.0), *deliveries)

    opened.delete((BatchRecord, "batch_1"))

    queries = opened.queries
    assert (None, []) == (queries.batch("batch_1"), list(queries.batch_items("batch_1")))
    assert [None, None, deliveries[2]] == unowned([queries.delivery(each.id) for each in deliveries])
    assert ["gen_x"] == [each.id for each in queries.page(Page("admin", 9))]
    assert [3] == [row["succeeded"] for row in queries.usage(Period(simulated=True), by=())]


def test_a_list_goes_on_where_it_was_after_its_rows_were_deleted_and_new_ones_are_first(opened):
    opened.write(*(generation(f"gen_{number}", state="failed", ended_at=1.0) for number in range(6)))
    first = opened.queries.page(Page("admin", 2))

    opened.delete(*((GenerationRecord, f"gen_{number}") for number in (0, 3, 4)))
    opened.write(generation("gen_6"))

    rest = opened.queries.page(Page("admin", 9, before=first[-1].seq))
    assert ["gen_5", "gen_4"] == [each.id for each in first]
    assert ["gen_2", "gen_1"] == [each.id for each in rest]
    assert ["gen_6", "gen_5"] == [each.id for each in opened.queries.page(Page("admin", 2))]


DAY_2 = 172_800.0


@dataclass(frozen=True)
class Old:
    """Ended work, alone in a ledger: a generation, or a batch of two."""

    generation: dict[str, Any] | None = None
    batch: dict[str, Any] | None = None
    others: tuple[Any, ...] = ()

    def records(self, *, is_batch: bool):
        facts = {"state": "succeeded", "ended_at": 5.0, **(self.generation or {})}
        if not is_batch:
            return (generation("gen_1", **facts), *self.others)
        items = [
            generation("gen_0", batch_id="batch_1", position=0, state="failed", ended_at=5.0),
            generation("gen_1", batch_id="batch_1", position=1, **facts),
        ]
        return (*items, replace(BATCH, **{"ended_at": 5.0, **(self.batch or {})}), *self.others)


def due(work_id: str, state: Any = "pending") -> Delivery:
    return Delivery(work_id, "https://hooks.example.com/", 5.0, state)


STAYS = {
    "it has not ended": Old({"state": "running", "ended_at": None}, {"ended_at": None}),
    "one of the batch has not ended": Old({"state": "running", "ended_at": None}),
    "it ended at that moment": Old({"ended_at": DAY_2}, {"ended_at": DAY_2}),
    "one of the batch ended at that moment": Old({"ended_at": DAY_2}),
    "its file is still served": Old({"files": ("0.png",), "ended_at": 100.0}),
    "its webhook is still to be called": Old(others=(due("gen_1"),)),
}
GOES = {
    "it is old": Old(),
    "it ended just before": Old({"ended_at": DAY_2 - 0.001}, {"ended_at": DAY_2 - 0.001}),
    "its file is gone": Old({"files": ("0.png",), "ended_at": 99.9}),
    "its webhook was called": Old(others=(due("gen_1", "delivered"), due("batch_1", "failed"))),
    "others are to be called": Old(others=(due("gen_2"), KeyRecord("admin", "k", "f", "gen_2", 1.0))),
}


@pytest.mark.parametrize("is_batch", [False, True], ids=["generation", "batch"])
@pytest.mark.parametrize("old", STAYS.values(), ids=STAYS)
def test_work_is_not_deletable_while(opened, old, is_batch):
    opened.write(*old.records(is_batch=is_batch))

    for moment in (None, DAY_2):
        assert [] == opened.queries.forgettable(DAY_2, files_before=100.0, weights_before=moment, most=9)


@pytest.mark.parametrize("is_batch", [False, True], ids=["generation", "batch"])
@pytest.mark.parametrize("old", GOES.values(), ids=GOES)
def test_work_is_forgotten_when(opened, old, is_batch):
    opened.write(*old.records(is_batch=is_batch))

    work = (BatchRecord, "batch_1") if is_batch else (GenerationRecord, "gen_1")
    assert [work] == opened.queries.forgettable(DAY_2, files_before=100.0, most=9)


@pytest.mark.parametrize("is_batch", [False, True], ids=["generation", "batch"])
def test_work_is_not_forgotten_while_an_idempotency_key_stands_for_it(opened, is_batch):
    work_id = "batch_1" if is_batch else "gen_1"
    opened.write(*Old().records(is_batch=is_batch), KeyRecord("anna", "k", "f", work_id, 1.0))

    assert [] == opened.queries.forgettable(DAY_2, files_before=100.0, most=9)


def test_a_batch_whose_own_webhook_is_still_to_be_called_is_not_forgotten(opened):
    opened.write(*Old().records(is_batch=True), due("batch_1"))

    assert [] == opened.queries.forgettable(DAY_2, files_before=100.0, most=9)


def test_the_oldest_work_is_forgotten_first_in_steps_and_batches_whole(opened):
    opened.write(
        *(
            generation(f"gen_{number}", state="failed", ended_at=moment)
            for number, moment in enumerate((4.0, 2.0, 3.0, 1.0))
        ),
        *(
            generation(f"gen_{batch}_{number}", batch_id=batch, position=number, state="failed", ended_at=1.0)
            for batch in "abc"
            for number in range(4)
        ),
        *(
            replace(BATCH, id=batch, total=4, ended_at=moment)
            for batch, moment in [("a", 8.0), ("b", 6.0), ("c", 7.0)]
        ),
    )
    steps = []
    while found := opened.queries.forgettable(DAY_2, files_before=DAY_2, most=3):
        steps.append([work_id for _, work_id in found])
        opened.delete(*found)

    assert [["b"], ["c"], ["a"], ["gen_3", "gen_1", "gen_2"], ["gen_0"]] == steps
    assert [] == opened.queries.page(Page("admin", 99))


def test_several_small_batches_are_forgotten_in_one_step(opened):
    for number in range(4):
        opened.write(replace(BATCH, id=f"batch_{number}", total=3, ended_at=float(number)))

    found = opened.queries.forgettable(DAY_2, files_before=DAY_2, most=6)

    assert ["batch_0", "batch_1"] == [work_id for _, work_id in found]


def test_the_oldest_doubt_is_of_an_unfinished_generation_whose_creation_has_no_answer(opened):
    sent = AttemptRecord(generation_id="", number=1, model="a/b", open=True, submitted_at=7.0)

    def one(name, attempt, **facts):
        return generation(name, attempts=(replace(attempt, generation_id=name),), **facts)

    assert opened.queries.oldest_doubt() is None
    opened.write(
        one("ended", replace(sent, submitted_at=1.0), state="failed", ended_at=2.0),
        one("known", replace(sent, submitted_at=2.0, prediction_id="p")),
        one("closed", replace(sent, submitted_at=3.0, open=False)),
        one("unsent", replace(sent, submitted_at=None)),
    )
    assert opened.queries.oldest_doubt() is None
    opened.write(one("a", sent), one("b", replace(sent, submitted_at=6.0)))
    assert 6.0 == opened.queries.oldest_doubt()
