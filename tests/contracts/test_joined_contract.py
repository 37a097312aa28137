"""The contract of batches that have joined generations of other batches or of none."""

import asyncio
from dataclasses import replace

import pytest

from ledger.records import BatchRecord, GenerationRecord, KeyRecord
from tests.contracts.test_claims_contract import BATCH, in_memory, on_postgres, on_sqlite
from tests.support.ledgers import write
from tests.support.records import generation

DAY_2 = 172_800.0
JOINS = replace(BATCH, id="batch_2", total=3, joined='{"0": "gen_a", "2": "gen_b"}', ended_at=6.0)


@pytest.fixture(params=[in_memory, on_sqlite, on_postgres])
def shared(request):
    with request.param() as opened:
        write(
            opened.one,
            generation(
                "gen_a", batch_id="batch_1", position=0, state="succeeded", ended_at=2.0, cost_usd=0.5
            ),
            generation("gen_b", state="failed", ended_at=3.0),
            generation("own", batch_id="batch_2", position=1, state="succeeded", ended_at=5.0, cost_usd=0.25),
            replace(BATCH, ended_at=3.0),
            JOINS,
        )
        yield opened


def forgettable(shared):
    return list(shared.queries.forgettable(DAY_2, files_before=DAY_2, most=9))


def test_what_a_batch_has_joined_is_read_back(shared):
    write(shared.one, replace(JOINS, ended_at=7.0))

    kept = shared.queries.batch("batch_2")
    assert (JOINS.joined, 7.0) == (kept.joined, kept.ended_at)
    assert shared.queries.batch("batch_1").joined is None


def test_the_own_generations_of_a_batch_are_its_items(shared):
    assert ["own"] == [each.id for each in shared.queries.batch_items("batch_2")]
    assert ["gen_a"] == [each.id for each in shared.queries.batch_items("batch_1")]
    assert 1 == shared.queries.progress(["batch_2"])["batch_2"].ended


def test_joined_generations_count_in_the_states_of_a_batch_without_a_cost(shared):
    write(shared.one, replace(JOINS, id="batch_3", joined='{"0": "gen_b", "1": "lost"}'))

    states = shared.queries.batch_states(["batch_1", "batch_2", "batch_3"])

    assert {"succeeded": (1, 0.5)} == states["batch_1"]
    assert {"succeeded": (2, 0.25), "failed": (1, 0.0)} == states["batch_2"]
    assert {"failed": (1, 0.0)} == states["batch_3"]


def test_generations_that_a_batch_has_joined_are_not_forgotten_before_it(shared):
    assert [(BatchRecord, "batch_2")] == forgettable(shared)

    async def deleted(kind, work_id):
        shared.one.delete(kind, work_id)
        await shared.one.flush()

    asyncio.run(deleted(BatchRecord, "batch_2"))
    assert [(BatchRecord, "batch_1")] == forgettable(shared)
    asyncio.run(deleted(BatchRecord, "batch_1"))
    assert [(GenerationRecord, "gen_b")] == forgettable(shared)


def test_a_batch_with_an_item_that_has_a_key_is_not_forgotten(shared):
    write(shared.one, KeyRecord("anna", "k", "f", "own", 1.0))

    assert [] == forgettable(shared)
