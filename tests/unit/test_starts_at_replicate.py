"""Predictions that wait at Replicate for their start: of an official model for a place, of another one for its boot."""

import asyncio
from dataclasses import replace

import pytest

from simulator import Options
from tests.support.callers import SERVER_TOKEN
from tests.support.virtual_replicate import replicate
from tests.support.virtual_time import in_virtual_time, now
from tests.support.wiring import a_picture, run

WATERCOLOR = "acme/watercolor:5766e5ce83be12035ddc4e4558c2093ff98632382b1ae204ab3ab036ca0b362b"


def a_watercolor(prompt="a fox", **fields):
    """A request for a community model, which may have to boot."""
    request = a_picture(prompt, **fields)
    return replace(
        request,
        first=replace(request.first, model=replace(request.model, name=WATERCOLOR), input={"prompt": prompt}),
    )


# ── Official models


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


# ── Community models


def options():
    return Options(prediction_seconds=10, jitter=0, boot_seconds=60, answer_delay=(0.25, 0.25))


@in_virtual_time
async def test_a_cold_batch_boots_in_half_of_the_slots_while_warm_models_have_the_others():
    async with replicate(options(), concurrent_limit=4, timeout=20) as (service, world):
        cold = [asyncio.create_task(run(service.core, a_watercolor(f"fox {n}"))) for n in range(6)]
        warm = [asyncio.create_task(service.run(f"a warm one {n}")) for n in range(4)]
        await asyncio.sleep(50)
        booting = service.gate.statistics()
        counts = world.counters.snapshot()
        assert all(each.done() for each in warm)
        ended = await asyncio.gather(*cold)
        ended_at = now()

    assert (2, 2, 4) == (booting.current_concurrent, booting.booting, booting.waiting)
    assert 6 == counts.creations_accepted
    assert ["succeeded"] * 6 == [each.state for each in ended]
    assert ended_at < 61 + 10 + 10 + 5


@in_virtual_time
async def test_a_version_that_does_not_boot_in_time_costs_nothing():
    async with replicate(options(), timeout=20) as (service, world):
        ended = await run(service.core, replace(a_watercolor(), start_timeout=30.0))
        counts = world.counters.snapshot()

    assert ("generation_timeout", 0.0) == (ended.error.code, ended.cost_usd)
    assert "The model did not start within 30 s, so the prediction was cancelled." == ended.error.detail
    assert 0.0 == counts.billed_usd
    assert 30.0 <= now() <= 31.5


@in_virtual_time
async def test_one_boot_distorts_neither_what_a_version_usually_takes_nor_its_polls():
    async with replicate(options(), timeout=20) as (service, world):
        for _ in range(4):
            await run(service.core, a_watercolor())
        before = world.counters.snapshot().requests["get"]
        await run(service.core, a_watercolor())
        polls = world.counters.snapshot().requests["get"] - before
        usual = service.gate.durations.usual(WATERCOLOR, 0.0)
        waits = service.gate.snapshot().boots

    assert 9.0 <= usual <= 13.0
    assert waits[WATERCOLOR] < 2.0
    assert polls <= 10
