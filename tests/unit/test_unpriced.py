"""Models without a price: their reservations, their costs, the learned costs, and how often they are repeated."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from catalog.outputs import Url
from errors import BudgetExceeded, GenerationFailed, OutcomeUnknown
from generations import views
from generations.costs import charge
from generations.learned import Learned
from ledger.memory import MemoryLedger
from ledger.records import GenerationRecord
from parsing.shapes import BatchRequest
from providers import Prediction, TryAgain
from providers.memory import SUCCEEDED, MemoryProvider
from tests.support import virtual_time
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import ADMIN, a_picture, core, result, run, run_batch, submission

RATE = 0.001525
LONGEST = 600.0
BOUND = 0.915
"""USD: what LONGEST seconds cost at RATE."""


def unpriced(**changes):
    """A request for a model without a price."""
    request = replace(a_picture(), longest=LONGEST)
    return replace(request, first=replace(request.first, model=replace(request.model, price=None, **changes)))


def ran(seconds, **fields):
    """A prediction that succeeded after it had run for so many seconds."""
    return replace(SUCCEEDED, metrics={"predict_time": seconds}, **fields)


def passing(**fields):
    """A prediction that failed for a reason that passes."""
    return Prediction("", "failed", error="Queue is full", cause="passing", **fields)


@in_virtual_time
async def test_it_reserves_what_the_longest_prediction_costs():
    inside = core(MemoryProvider(None))
    generation = inside.supervisor.accept(submission(unpriced()))
    await asyncio.sleep(1)

    shown = views.generation(generation.record(), "")
    assert (BOUND, 0, "bounded") == tuple(
        shown[name] for name in ("cost_bound_usd", "cost_usd", "cost_basis")
    )
    assert BOUND == inside.budget.server.reserved
    inside.supervisor.cancel(generation)
    await inside.supervisor.wait(generation)


@in_virtual_time
async def test_it_costs_the_seconds_that_it_ran():
    inside = core(MemoryProvider(ran(2.0)))
    body = result(await run(inside, unpriced()))

    assert (0.00305, "learned") == (body["cost_usd"], body["cost_basis"])
    assert "cost_bound_usd" not in body
    assert (0.0, 0.00305) == (inside.budget.server.reserved, sum(inside.budget.server.spent.values()))


@pytest.mark.parametrize("seconds", [-1, 0, float("nan"), float("inf"), 1e9, True, "2", None])
@in_virtual_time
async def test_seconds_that_cannot_be_cost_no_more_than_the_bound(seconds):
    body = result(await run(core(MemoryProvider(ran(seconds))), unpriced()))

    assert BOUND == body["cost_usd"]


@in_virtual_time
async def test_without_metrics_the_seconds_to_its_end_count():
    body = result(await run(core(MemoryProvider(replace(SUCCEEDED, seconds=10.0))), unpriced()))

    assert (0.01525, "learned") == (body["cost_usd"], body["cost_basis"])


@in_virtual_time
async def test_an_unknown_outcome_costs_the_bound():
    body = result(await run(core(MemoryProvider(OutcomeUnknown())), unpriced()))

    assert (BOUND, "bounded") == (body["cost_usd"], body["cost_basis"])


FAILED = Prediction("p", "failed", started=True, metrics={"predict_time": 2.0, "total_time": 10.0})


@pytest.mark.parametrize(
    ("bills_setup", "ended", "usd"),
    [
        (False, FAILED, 0.0),
        (True, FAILED, 0.01525),
        (True, replace(FAILED, status="aborted", started=False), 0.01525),
        (False, replace(FAILED, status="canceled"), 0.00305),
        (False, replace(FAILED, status="canceled", started=False), 0.0),
        (False, replace(FAILED, status="succeeded"), 0.00305),
        (True, replace(FAILED, status="processing"), 0.0),
        (False, replace(FAILED, is_lost=True), BOUND),
        (True, replace(FAILED, status="succeeded", output=Url("https://x.test/a")), 0.01525),
    ],
)
def test_private_models_and_deployments_also_pay_for_setup_and_failures(bills_setup, ended, usd):
    request = unpriced(bills_setup=bills_setup)

    assert usd == charge(request.model, request.first.input, ended, longest=LONGEST)


# ── Learned


async def forecast(inside, *requests):
    found = await inside.generations.forecast(BatchRequest(requests), ADMIN)
    return views.forecast(len(requests), found)


@in_virtual_time
async def test_what_predictions_cost_is_learned_for_estimates_and_never_for_bounds():
    inside = core(MemoryProvider(*(ran(float(seconds)) for seconds in range(1, 11))))
    before = await forecast(inside, unpriced())
    for _ in range(10):
        await run(inside, unpriced())
    after = await forecast(inside, unpriced(), unpriced())

    assert (BOUND, BOUND, "bounded") == tuple(
        before[name] for name in ("estimated_cost_usd", "cost_bound_usd", "cost_basis")
    )
    assert (2 * BOUND, "learned") == (after["cost_bound_usd"], after["cost_basis"])
    assert round(2 * 10 * RATE, 6) == after["estimated_cost_usd"]


@in_virtual_time
async def test_another_process_knows_what_was_learned():
    disk = MemoryLedger()
    one, other = (
        core(MemoryProvider(ran(2.0)), ledger=MemoryLedger(disk.rows, process=name)) for name in "ab"
    )
    await run(one, unpriced())

    assert 0.00305 == (await forecast(other, unpriced()))["estimated_cost_usd"]


@in_virtual_time
async def test_a_target_is_learned_by_itself():
    inside = core(MemoryProvider(ran(2.0)))
    await run(inside, unpriced())

    assert BOUND == (await forecast(inside, unpriced(name="acme/other")))["estimated_cost_usd"]


class Samples:
    """An archive that has the same sample for every target."""

    def __init__(self):
        self.read_times = 0

    async def read(self, query):  # noqa: ARG002
        self.read_times += 1
        return [2.0]


@in_virtual_time
async def test_a_sample_is_read_at_most_once_a_minute():
    samples, clock = Samples(), asyncio.get_running_loop().time
    learned = Learned(ledger=MemoryLedger(), archive=samples, simulated=False, clock=clock)
    model = unpriced().model

    for pause in (0, 30, 29, 2):
        await asyncio.sleep(pause)
        assert 2.0 == await learned.seconds(model)
    assert 2 == samples.read_times


@in_virtual_time
async def test_a_model_with_a_price_is_not_learned():
    inside = core(MemoryProvider(ran(2.0)))
    await run(inside, a_picture())

    shown = await forecast(inside, a_picture(num_outputs=4))
    assert (0.1, 0.1, "declared") == tuple(
        shown[name] for name in ("estimated_cost_usd", "cost_bound_usd", "cost_basis")
    )


@in_virtual_time
async def test_a_mixed_batch_shows_the_least_certain_basis():
    inside = core(MemoryProvider(ran(2.0), ran(2.0)))
    batch = await run_batch(inside, BatchRequest([a_picture(), unpriced()]))

    summary = batch.summary()
    assert (0.02805, "learned") == (summary["actual_cost_usd"], summary["cost_basis"])


# ── Limits


@in_virtual_time
async def test_it_is_refused_under_a_budget_unless_its_bound_fits():
    inside = core(MemoryProvider(), BUDGET_USD_PER_DAY=2 * BOUND - 0.01)
    await inside.generations.submit(submission(unpriced(), wait_seconds=0))

    with pytest.raises(BudgetExceeded) as refused:
        await inside.generations.submit(submission(unpriced()))

    assert (
        "It may cost up to 0.915 USD, and 0.905 of today's 1.82 USD are left. black-forest-labs/flux-dev has no "
        "price, so each prediction counts as 600 s at 0.001525 USD. Shorter timeouts lower this, and the operator "
        "can set a price in PRICES_FILE." == refused.value.detail
    )


@in_virtual_time
async def test_it_is_refused_with_a_maximum_cost_unless_its_bound_fits():
    inside = core(MemoryProvider(ran(2.0)))

    with pytest.raises(BudgetExceeded, match=r"more than max_cost_usd: 0\.9\. .* has no price"):
        await inside.generations.submit(submission(replace(unpriced(), max_cost=0.9)))
    generation = await inside.generations.submit(submission(replace(unpriced(), max_cost=BOUND)))
    assert generation.succeeded


@in_virtual_time
async def test_the_refusal_of_a_model_with_a_price_is_as_before():
    inside = core(MemoryProvider())

    with pytest.raises(
        BudgetExceeded, match=r"^It may cost up to 0\.025 USD, more than max_cost_usd: 0\.01\.$"
    ):
        await inside.generations.submit(submission(replace(a_picture(), max_cost=0.01)))


# ── Repeated attempts


async def attempts(request, *outcomes, **named):
    inside = core(MemoryProvider(*outcomes), first_backoff=0.01, **named)
    generation = await run(inside, request)
    return len(generation.attempts), generation


COSTLY = {"running_usd": 0.01}
"""Of a model whose bound is above 1 USD."""


@in_virtual_time
async def test_what_never_ran_is_repeated_although_the_bound_is_high():
    count, generation = await attempts(unpriced(**COSTLY), *[passing()] * 3, ran(2.0))

    assert (4, True, 0.02) == (count, generation.succeeded, generation.cost_usd)


@in_virtual_time
async def test_a_costly_model_that_ran_is_repeated_once():
    count, generation = await attempts(unpriced(**COSTLY), *[passing(started=True)] * 3, ran(2.0))

    assert (2, False) == (count, generation.succeeded)


@in_virtual_time
async def test_a_refused_creation_is_no_run():
    refused = TryAgain(GenerationFailed("Refused."))
    count, generation = await attempts(unpriced(**COSTLY), *[refused] * 3, ran(2.0))

    assert (4, True) == (count, generation.succeeded)


@in_virtual_time
async def test_a_model_that_is_known_to_be_cheap_gets_all_attempts():
    inside = core(MemoryProvider(ran(2.0), *[passing(started=True)] * 3, ran(2.0)), first_backoff=0.01)
    await run(inside, unpriced(**COSTLY))
    generation = await run(inside, unpriced(**COSTLY))

    assert (4, True) == (len(generation.attempts), generation.succeeded)


BILLED = {"bills_setup": True}
HALF = passing(started=True, metrics={"total_time": 300.0})
"""A failure that costs half of the bound."""


@in_virtual_time
async def test_a_billed_failure_is_repeated_if_the_budget_has_room_for_another_bound():
    for budget, succeeds in ((1.5 * BOUND, True), (1.4 * BOUND, False)):
        count, generation = await attempts(unpriced(**BILLED), HALF, ran(2.0), BUDGET_USD_PER_DAY=budget)
        assert ((2, True) if succeeds else (1, False)) == (count, generation.succeeded)


@in_virtual_time
async def test_a_billed_failure_is_repeated_if_the_maximum_cost_has_room_for_another_bound():
    for most, succeeds in ((1.5 * BOUND, True), (1.4 * BOUND, False)):
        request = replace(unpriced(**BILLED), max_cost=most)
        count, generation = await attempts(request, HALF, ran(2.0))
        assert ((2, True) if succeeds else (1, False)) == (count, generation.succeeded)


# ── No history exceeds the budget

ENDS = {
    "unknown": lambda _: OutcomeUnknown(),
    "counted": lambda _: replace(SUCCEEDED, metrics={"image_count": 10**9}),
    "never ran": lambda _: passing(),
    "failed": lambda seconds: passing(started=True, metrics={"total_time": seconds}),
    "ran": ran,
}
REQUESTS = {
    "picture": a_picture(),
    "pictures": a_picture(num_outputs=4),
    "unpriced": unpriced(),
    "cheap": unpriced(running_usd=0.0001),
    "private": unpriced(bills_setup=True),
}
"""By names, since their representations are long."""


@hypothesis_settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from(list(REQUESTS)), st.sampled_from([0.0, 0.0005, 0.01, 3.0])
        ),
        min_size=1,
        max_size=12,
    ),
    st.lists(
        st.tuples(st.sampled_from(list(ENDS)), st.sampled_from([1e6, 300.0, 2.0])), min_size=6, max_size=30
    ),
    st.booleans(),
)
def test_no_history_costs_more_than_the_budget(steps, ends, is_shared):
    virtual_time.run(_history(steps, ends, is_shared))


async def _history(steps, ends, is_shared):
    """Up to three processes on one ledger, or one with a ledger of its own. Its predictions end in these ways."""
    budget, disk = 2.0, MemoryLedger()
    provider = MemoryProvider(*(ENDS[name](seconds) for name, seconds in ends))
    names = "abc" if is_shared else [None]
    ledgers = [MemoryLedger(disk.rows, commit_seconds=0.001, process=name) for name in names]
    processes = [
        core(provider, ledger=ledger, first_backoff=0.01, BUDGET_USD_PER_DAY=budget) for ledger in ledgers
    ]
    tasks = []

    async def submit(inside, request):
        work = submission(request, simulated=False)
        try:
            return (await inside.generations.submit(work)).cost_usd
        except BudgetExceeded:
            return 0.0

    for who, request, pause in steps:
        tasks.append(asyncio.create_task(submit(processes[who % len(processes)], REQUESTS[request])))
        await asyncio.sleep(pause)
        # A claim that is refused stands in the rows of the budget until its answer.
        accepted = disk.all(GenerationRecord)
        assert (
            sum(each.cost_usd if each.has_ended else each.reserved_usd for each in accepted) <= budget + 1e-6
        )
    assert sum(await asyncio.gather(*tasks)) <= budget + 1e-6
