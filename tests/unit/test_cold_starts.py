"""Generations of a version that may have to boot: the two bounds of a prediction, its slot, and what it costs."""

import asyncio
import time
from dataclasses import replace

import pytest

from admission.durations import Took
from concurrency import Gate
from generations.attempt import AttemptRunner
from generations.attempts import Attempt
from generations.creations import LatestVersions
from generations.deadline import Bounds
from generations.generation import Generation
from ledger.memory import MemoryLedger
from parsing.generation import parse_generation
from providers import Prediction
from providers.memory import SUCCEEDED, MemoryProvider
from providers.payers import Payers
from tests.support.declarations import CONTEXT
from tests.support.virtual_time import in_virtual_time, now
from tests.support.wiring import ADMIN, a_picture, core, run

VERSION = "ann/cold:" + "0" * 64
BOUNDS = Bounds(start=200.0, run=30.0)
ANSWER = 0.25
"""Seconds until a creation is answered."""


class Provider(MemoryProvider):
    """Keeps the arguments of each creation and each wait."""

    def __init__(self, *outcomes, **how):
        super().__init__(*outcomes, **how)
        self.deadlines = []
        self.start_by = []

    async def create(self, *arguments, cancel_after, **named):
        self.deadlines.append(cancel_after)
        return await super().create(*arguments, cancel_after=cancel_after, **named)

    async def wait(self, *arguments, start_by=None, **named):
        self.start_by.append(start_by)
        return await super().wait(*arguments, start_by=start_by, **named)


def a_cold_one(**fields):
    """A request for a version that may have to boot."""
    request = a_picture(**fields)
    return replace(request, first=replace(request.first, model=replace(request.model, name=VERSION)))


def bounded(request, *, start=200.0, run=30.0):
    return replace(request, start_timeout=start, timeout=run)


@in_virtual_time
async def test_the_timeout_counts_from_the_start():
    provider = Provider(starts_after=150.0, ends_after=29.0)
    ended = await run(core(provider), bounded(a_cold_one()))

    assert ("succeeded", ANSWER + 179.0) == (ended.state, now())
    assert ([240.0], [200.0]) == (provider.deadlines, provider.start_by)


@in_virtual_time
async def test_a_prediction_that_runs_too_long_is_cancelled_its_timeout_after_its_start_and_billed():
    provider = Provider(None, starts_after=150.0)
    ended = await run(core(provider), bounded(a_cold_one()))

    assert ("failed", "generation_timeout", 0.025) == (ended.state, ended.error.code, ended.cost_usd)
    assert "The prediction was cancelled after 30 s." == ended.error.detail
    assert 2 * ANSWER + 150.0 + 30.0 == now()


@in_virtual_time
async def test_a_prediction_that_does_not_start_in_time_is_cancelled_unbilled():
    provider = Provider(None, starts_after=1000.0)
    ended = await run(core(provider), bounded(a_cold_one()))

    assert ("generation_timeout", True, 0.0) == (ended.error.code, ended.error.retryable, ended.cost_usd)
    assert "The model did not start within 200 s, so the prediction was cancelled." == ended.error.detail
    assert 2 * ANSWER + 200.0 == now()
    assert ["p1"] == provider.cancelled


@in_virtual_time
async def test_another_model_may_follow_one_that_does_not_start_in_time():
    provider = Provider(None, starts_after=1000.0)
    request = bounded(a_picture(fallback=["flux-schnell"]))
    cold = replace(request.model, name=VERSION)
    route = replace(request.route, requested=cold)
    inside = core(provider)
    ending = asyncio.create_task(
        run(inside, replace(request, route=route, first=replace(request.first, model=cold)))
    )
    await asyncio.sleep(100.0)
    provider.starts_after = 0.0
    ended = await ending

    assert ("succeeded", "black-forest-labs/flux-schnell") == (ended.state, ended.model.name)
    assert [VERSION, "black-forest-labs/flux-schnell"] == [each.model.name for each in ended.attempts]


@in_virtual_time
async def test_the_bounds_of_the_settings_apply_to_requests_without_their_own():
    provider = Provider(None, starts_after=1000.0)
    await run(core(provider, GENERATION_START_TIMEOUT=90, GENERATION_TIMEOUT=40), a_cold_one())

    assert [140.0] == provider.deadlines
    assert 2 * ANSWER + 90.0 == now()


@in_virtual_time
async def test_an_official_model_is_not_polled_for_its_start_and_runs_from_its_creation():
    provider = Provider(None, starts_after=1000.0)
    ended = await run(core(provider), bounded(a_picture()))

    assert ([240.0], [None]) == (provider.deadlines, provider.start_by)
    assert ("The prediction was cancelled after 30 s.", 2 * ANSWER + 30.0) == (ended.error.detail, now())


@in_virtual_time
async def test_each_start_lets_the_next_prediction_of_its_version_be_created():
    provider = Provider(starts_after=20.0, ends_after=5.0)
    gate = Gate(concurrent_limit=5, requests_per_minute=600)
    inside = core(provider, gate=gate)
    cold = [asyncio.create_task(run(inside, a_cold_one())) for _ in range(4)]
    warm = asyncio.create_task(run(inside, a_picture()))
    await asyncio.sleep(1.0)
    waiting = gate.statistics()
    await asyncio.wait([*cold, warm])

    assert (3, 2, 2) == (waiting.current_concurrent, waiting.booting, waiting.waiting)
    assert [0.0] * 3 + [ANSWER + 20.0] * 2 == [at for at, _ in provider.sent]


@in_virtual_time
async def test_what_a_model_usually_takes_leaves_out_its_boot():
    gate = Gate(concurrent_limit=4, requests_per_minute=600)
    await run(core(Provider(starts_after=100.0, ends_after=5.0), gate=gate), a_cold_one())

    (took,) = gate.durations.of(VERSION)
    assert Took(5.25, after=0.0, answered=0.25) == replace(took, held=round(took.held, 2))
    assert {VERSION: ANSWER + 100.0} == gate.snapshot().boots


@pytest.mark.parametrize(
    ("fields", "longest"),
    [
        ({}, 230.0),
        ({"timeout": 5}, 205.0),
        ({"start_timeout": 7}, 37.0),
        ({"timeout": 5, "start_timeout": 7}, 12.0),
    ],
)
def test_the_longest_time_of_a_prediction_is_that_of_both_bounds(fields, longest):
    context = replace(CONTEXT, timeout=BOUNDS.run, start_timeout=BOUNDS.start)
    body = {"model_name": "flux-dev", "prompt": "a fox", **fields}

    assert longest == parse_generation(body, context).longest


# ── After a restart


class NoLate:
    def listener(self, *_):
        return None


async def resumed(provider, *, age, made=SUCCEEDED):
    """Resume an attempt whose creation was answered at 0 s, after so many seconds. Returns its error and the gate."""
    provider.start(Prediction("p1", "starting"), made, reference="gen_a.1")
    gate = Gate(concurrent_limit=2, requests_per_minute=600)
    ledger = MemoryLedger()
    latest = LatestVersions(None)  # which only a refused creation needs
    runner = AttemptRunner(
        provider=provider,
        gate=gate,
        ledger=ledger,
        late=NoLate(),
        bounds=BOUNDS,
        latest=latest,
        payers=Payers(provider.tokens, ledger, str, simulated=True),
    )
    request = a_cold_one()
    await asyncio.sleep(age)
    attempt = Attempt(request.model, request.first.input)
    attempt.submitted_at = attempt.answered_at = time.time() - age
    attempt.prediction = Prediction("p1", "starting", age=age)
    generation = Generation(
        id="gen_a", request=request, caller=ADMIN, request_id="", accepted_at=0.0, address="", simulated=True,
        request_json="{}", attempts=[attempt],
    )  # fmt: skip
    error = None
    try:
        await runner.make(generation, request.first, None)
    except Exception as raised:
        error = str(raised)
    return error, gate


@pytest.mark.parametrize("age", [50.0, 110.0, 125.0])
@in_virtual_time
async def test_after_a_restart_the_timeout_counts_from_the_start_before_it(age):
    provider = Provider(starts_after=100.0)
    error, _ = await resumed(provider, age=age, made=None)

    assert "The prediction was cancelled after 30 s." in error
    assert max(130.0, age + 10.0) + ANSWER == pytest.approx(now(), abs=0.05)


@pytest.mark.parametrize(("age", "ends"), [(50.0, 200.0), (190.0, 200.0), (300.0, 300.0)])
@in_virtual_time
async def test_after_a_restart_the_bound_of_the_start_counts_from_the_creation(age, ends):
    provider = Provider(starts_after=1000.0)
    error, _ = await resumed(provider, age=age)

    assert "did not start within 200 s" in error
    assert ends + ANSWER == pytest.approx(now(), abs=0.05)


@in_virtual_time
async def test_after_a_restart_a_prediction_boots_until_it_is_seen_running():
    provider = Provider(starts_after=100.0, ends_after=20.0)
    working = asyncio.create_task(resumed(provider, age=50.0))
    await asyncio.sleep(60.0)
    assert not working.done()
    error, gate = await working

    assert error is None
    assert [VERSION] == [*gate.snapshot().boots]
