"""Predictions of an official model that wait at Replicate: their wait counts against the bound of the start."""

import pytest

from simulator import Options
from tests.support.callers import SERVER_TOKEN
from tests.support.virtual_replicate import replicate
from tests.support.virtual_time import in_virtual_time


@in_virtual_time
async def test_a_wait_at_replicate_is_not_counted_as_running():
    async with replicate(Options(prediction_seconds=15), timeout=20) as (service, _):
        ended = await service.run("[[boot=90]]", start_timeout=100)

    assert ended.succeeded


@in_virtual_time
async def test_a_prediction_that_waits_too_long_is_cancelled_unbilled():
    async with replicate(Options(prediction_seconds=15), timeout=20) as (service, world):
        ended = await service.run("[[boot=90]]", start_timeout=40)
        counts = world.counters.snapshot()

    assert ("generation_timeout", 0.0) == (ended.error.code, ended.cost_usd)
    assert "The model did not start within 40 s, so the prediction was cancelled." == ended.error.detail
    assert ({"canceled": 1}, 0.0) == (dict(counts.finished), counts.billed_usd)


@in_virtual_time
async def test_the_timeout_of_a_run_counts_from_the_start_that_replicate_shows():
    async with replicate(Options(), timeout=20) as (service, world):
        ended = await service.run("[[boot=30]] [[hang]]", start_timeout=100)
        [made] = world.predictions.newest_first(SERVER_TOKEN)

    assert ("generation_timeout", 0.025) == (ended.error.code, ended.cost_usd)
    assert pytest.approx(20.0, abs=0.5) == (made.completed_at - made.started_at).total_seconds()
