"""The plan of a batch, checked by hand, against the gate, and against the simulator."""

import asyncio
import math
from collections import Counter
from statistics import fmean
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission.arrivals import ArrivalsState
from admission.durations import REMEMBERED, Durations, Took
from admission.fair_queue import FlowSnapshot
from admission.forecast import Item, Plan, plan
from admission.reserve import ReserveState
from admission.sliding_window import WINDOW
from admission.snapshot import GateSnapshot
from concurrency import Gate
from generations import views
from ledger.records import PlanRecord
from simulator import Options
from tests.support.declarations import parse_batch
from tests.support.virtual_replicate import replicate
from tests.support.virtual_time import run
from tests.support.wiring import ADMIN, OTHER_USER, Parts, run_batch

NEVER = -math.inf


def gate_with(*lines: FlowSnapshot, slots: int = 10, rpm: int = 600, **seen) -> GateSnapshot:
    """A snapshot of a gate at 100 seconds with these flows. `seen` sets other fields; all others are empty."""
    nothing = {
        "now": 100.0,
        "places": (),
        "reserve": ReserveState(),
        "arrivals": ArrivalsState(),
        "paused_until": {},
        "held": (),
    }
    return GateSnapshot(concurrent_limit=slots, requests_per_minute=rpm, flows=lines, **(nothing | seen))


def flow(caller="bob", *, batched=True, waiting=0, in_flight=0, most=math.inf) -> FlowSnapshot:
    return FlowSnapshot(caller, "earlier" if batched else None, waiting, in_flight, most)


def items(*usual: float) -> list[Item]:
    """One item for each of these usual durations in seconds, each of its own model."""
    return [Item(f"{seconds} s", seconds, 0.03, 2) for seconds in usual]


def planned(wanted: list[Item], snapshot: GateSnapshot, durations: Durations | None = None, **how) -> Plan:
    how = {"caller": "ann", "max_concurrent": None, **how}
    return plan(wanted, snapshot, durations or Durations(), **how)


def seconds(wanted: list[Item], snapshot: GateSnapshot, durations: Durations | None = None, **how) -> float:
    return planned(wanted, snapshot, durations, **how).seconds


# ── Recent durations ────────────────────────────────────────────────────────────────────────────────


def test_an_unmeasured_model_takes_its_usual_seconds():
    assert () == Durations().of("a model")
    assert 12.5 == seconds(items(12.5), gate_with())


def test_a_measured_model_takes_its_measured_and_not_its_usual_seconds():
    durations = Durations()
    durations.note("12 s", Took(held=3.0, after=0.5, answered=0.25))

    assert (Took(3.0, 0.5, 0.25),) == durations.of("12 s")
    assert 3.5 == seconds(items(12), gate_with(), durations)


def test_each_model_keeps_its_latest_64_durations():
    durations = Durations()
    for number in range(200):
        durations.note("a model", Took(held=number))
    durations.note("another", Took(held=1000))

    assert list(range(200 - REMEMBERED, 200)) == [took.held for took in durations.of("a model")]
    assert [1000] == [took.held for took in durations.of("another")]


def test_the_first_durations_of_a_model_are_dropped_after_16_others():
    durations = Durations()
    for number in range(24):
        durations.note("a model", Took(held=number))

    assert list(range(8, 24)) == [took.held for took in durations.of("a model")]


# ── The schedule, computed by hand ──────────────────────────────────────────────────────────────────


def test_an_empty_batch_takes_no_time():
    assert Plan("immediate", 0.0, 0.0, 0) == planned([], gate_with())


def test_items_take_the_slot_that_is_free_first_in_input_order():
    assert 30 == seconds(items(*[10] * 5), gate_with(slots=2))
    assert 3 == seconds(items(3, 1, 1, 1), gate_with(slots=2))
    assert 4 == seconds(items(1, 1, 1, 3), gate_with(slots=2))


def test_a_batch_of_several_windows_waits_for_each_window():
    assert 121 == seconds(items(*[1] * 25), gate_with(rpm=10))


def test_a_place_counts_from_the_answer_and_not_from_the_admission():
    durations = Durations()
    durations.note("5 s", Took(held=3, answered=2))

    assert 62 + 62 + 3 == seconds(items(*[5] * 25), gate_with(slots=100, rpm=10), durations)


def test_a_batch_waits_for_spent_places():
    spent = (100.0, 120.0, 120.0, 130.0)  # the first place is free already

    assert 1 == seconds(items(*[1] * 7), gate_with(rpm=10, places=spent))
    assert 21 == seconds(items(*[1] * 9), gate_with(rpm=10, places=spent))
    assert 31 == seconds(items(*[1] * 10), gate_with(rpm=10, places=spent))


def test_a_place_without_an_answer_is_assumed_to_be_answered_after_the_usual_time():
    durations = Durations()
    durations.note("1 s", Took(held=1, answered=0.5))

    assert 61.5 == seconds(items(1, 1), gate_with(rpm=2, places=(math.inf,)), durations)


def test_a_batch_that_is_alone_wastes_no_place():
    assert 540 == seconds(items(*[0] * 100), gate_with(rpm=10, reserve=ReserveState(share=0.5)))


def test_a_batch_of_more_than_ten_windows_takes_a_third_of_ten_places_evenly():
    # Each minute, seven items start at once, and three take the reserve, 0.97 * 20 s apart. The last of 110 is one of
    # the three.
    planned = seconds(items(*[0] * 110), gate_with(rpm=10, reserve=ReserveState(share=0.5)))
    assert 600 + 2 * 0.97 * 20 == pytest.approx(planned)


def test_a_batch_takes_places_evenly_after_recent_single_calls():
    # One item starts every 0.97 * 6 s, until the remaining items fit into the free places beside the base of three.
    singles = ArrivalsState(latest="bob", latest_until=500.0, singles_until=500.0)
    about = gate_with(rpm=10, reserve=ReserveState(share=0.5), arrivals=singles)
    assert 0 == seconds(items(*[0] * 7), about)
    assert 7 * 0.97 * 6 == pytest.approx(seconds(items(*[0] * 8), about))


def test_a_batch_keeps_to_its_max_concurrent():
    assert 30 == seconds(items(*[10] * 6), gate_with(), max_concurrent=2)


def test_slots_in_flight_become_free_evenly_over_the_recent_durations():
    busy = gate_with(flow(in_flight=2), slots=2, held=(6.0, 10.0))

    assert 3 == seconds(items(1), busy)  # 2 and 6 s from now
    assert 7 == seconds(items(1, 1, 1, 1, 1), busy)


def test_waiting_tickets_take_turns_with_the_batch():
    other = flow(waiting=3)

    assert 4 == seconds(items(1, 1), gate_with(other, slots=1, held=(1.0,)))
    assert 6 == seconds(items(1, 1), gate_with(other, flow("cid", waiting=9), slots=1, held=(1.0,)))


def test_batches_of_one_caller_share_the_turns_of_the_caller():
    own = flow("ann", waiting=9)

    assert 6 == seconds(items(1, 1, 1), gate_with(own, slots=1, held=(1.0,)))
    assert 7 == seconds(items(1, 1), gate_with(own, flow(waiting=9), slots=1, held=(1.0,)))


def test_a_batch_at_its_max_concurrent_leaves_the_other_slots_free():
    bounded = flow(waiting=100, most=1)

    assert 10 == seconds(items(*[1] * 10), gate_with(bounded, slots=2, held=(1.0,)))


def test_a_waiting_single_call_takes_a_place_of_the_reserve_before_the_batch():
    single = flow(batched=False, waiting=1)
    reserve = ReserveState(share=0.5, paced_until=110.0)
    singles = ArrivalsState(latest="bob", latest_until=999.0, singles_until=999.0)
    last = {"rpm": 10, "places": (999.0,) * 8, "reserve": reserve, "arrivals": singles, "held": (0.0,)}

    assert 10 + 0.97 * 6 == pytest.approx(seconds(items(0, 0), gate_with(**last)))
    # One place is left, and the single call takes the next place that is free.
    assert 60 == seconds(items(0, 0), gate_with(single, **last))


def test_a_paused_caller_waits_while_others_are_admitted():
    paused = {"ann": 105.0, "bob": 200.0}

    assert 6 == seconds(items(1), gate_with(flow(waiting=50), slots=1, paused_until=paused))


def test_the_last_items_files_are_fetched_after_its_slot_is_free():
    durations = Durations()
    durations.note("1 s", Took(held=2, after=5))

    assert 2 * 3 + 5 == seconds(items(1, 1, 1), gate_with(slots=1), durations)


def test_a_large_batch_takes_as_long_as_its_slowest_item_and_not_the_mean():
    durations = Durations()
    for held in (1, 1, 1, 9):
        durations.note("1 s", Took(held=held))

    assert 9 == seconds(items(*[1] * 50), gate_with(slots=50), durations)
    assert 1 < seconds(items(1), gate_with(), durations) < seconds(items(1, 1), gate_with(), durations) < 9


def test_equal_requests_get_equal_plans():
    durations = Durations()
    for held in range(1, 30):
        durations.note("1 s", Took(held=held))

    assert planned(items(*[1] * 99), gate_with(), durations) == planned(
        items(*[1] * 99), gate_with(), durations
    )


def test_10000_items_among_10000_others_are_planned():
    many = gate_with(flow(waiting=10_000), slots=200, held=(0.5,))

    # 20,000 turns at 600 a minute: the last item of the batch starts in the 34th minute.
    assert 33 * 60 + 0.5 == seconds(items(*[0.5] * 10_000), many)


# ── The contents of a plan ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("strategy", "count", "snapshot", "bound"),
    [
        ("immediate", 10, gate_with(slots=10), None),
        ("window", 11, gate_with(slots=10), None),
        ("window", 10, gate_with(slots=10), 9),
        ("window", 10, gate_with(flow(in_flight=1), slots=10), None),
        ("immediate", 9, gate_with(flow(in_flight=1), slots=10), None),
        ("window", 1, gate_with(flow(waiting=1)), None),
        ("window", 1, gate_with(paused_until={"ann": 101.0}), None),
        ("immediate", 1, gate_with(paused_until={"ann": 100.0, "bob": 300.0}), None),
        ("window", 8, gate_with(rpm=10, places=(100.0, 101.0, math.inf, 102.0)), None),
        ("immediate", 7, gate_with(rpm=10, places=(100.0, 101.0, math.inf, 102.0)), None),
        ("window", 600, gate_with(rpm=600), None),
        ("queue", 601, gate_with(slots=1000, rpm=600), None),
    ],
)
def test_a_batch_is_immediate_if_all_items_start_now_and_a_queue_beyond_one_window(
    strategy, count, snapshot, bound
):
    assert strategy == planned(items(*[1] * count), snapshot, max_concurrent=bound).strategy


def test_costs_are_summed_exactly():
    wanted = [Item("a", 1, 0.1, 3), Item("b", 1, 0.2, 0), Item("a", 1, 0.000003, 4)]

    assert {
        "strategy": "immediate",
        "estimated_seconds": 1.235,
        "estimated_cost_usd": 0.300003,
        "credits": 7,
    } == views.plan(PlanRecord("immediate", 1.23456, planned(wanted, gate_with()).cost_usd, 7))
    assert 7 == planned(wanted, gate_with()).credits
    assert 333.33 == planned([Item("a", 1, 0.033333, 1)] * 10_000, gate_with()).cost_usd


# ── Properties of every batch ───────────────────────────────────────────────────────────────────────

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=40)
SLOTS = st.integers(1, 12)
PLACES = st.integers(1, 12) | st.just(600)
BOUNDS = st.none() | st.integers(1, 6)


@pytest.mark.slow
@given(
    spent=st.integers(0, 15),
    rests=st.sampled_from([0, 1, 7, 59, 60, 61, 200]),
    lengths=LENGTHS,
    answer=st.integers(0, 40),
    slots=SLOTS,
    places=PLACES,
    reserve=st.sampled_from([0.0, 0.25, 0.5]),
    bound=BOUNDS,
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_the_plan_of_a_batch_that_is_alone_is_exact_once_durations_are_known(
    spent, rests, lengths, answer, slots, places, reserve, bound
):
    durations = Durations()
    for held in lengths:
        durations.note(f"{held} s", Took(held=held, answered=min(answer, held)))

    async def live(gate, admitted, held, **how):
        with await gate.acquire("ann", **how) as lease:
            admitted[asyncio.get_running_loop().time()] += 1
            lease.sent()
            await asyncio.sleep(min(answer, held))
            lease.answered()
            await asyncio.sleep(held - min(answer, held))

    async def scenario():
        gate = Gate(concurrent_limit=slots, requests_per_minute=places, interactive_reserve=reserve)
        admitted = Counter()
        await asyncio.gather(*(live(gate, admitted, 1, batch="before") for _ in range(spent)))
        await asyncio.sleep(rests)
        wanted = items(*lengths)
        planned = plan(wanted, gate.snapshot(), durations, caller="ann", max_concurrent=bound)
        began = asyncio.get_running_loop().time()
        admitted.clear()
        lives = (live(gate, admitted, held, batch="this", max_concurrent=bound) for held in lengths)
        await asyncio.gather(*lives)
        return planned, asyncio.get_running_loop().time() - began, admitted[began] == len(lengths)

    planned, took, started_at_once = run(scenario())
    assert pytest.approx(took, abs=1e-6) == planned.seconds
    assert (len(lengths) > places) == (planned.strategy == "queue")
    if planned.strategy != "queue" and min(lengths) > 0:  # an item that takes no time frees its slot at once
        assert started_at_once == (planned.strategy == "immediate")


@given(lengths=LENGTHS, slots=SLOTS, places=PLACES, bound=BOUNDS)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_no_plan_is_shorter_than_its_slots_windows_or_longest_item_allow(lengths, slots, places, bound):
    result = seconds(items(*lengths), gate_with(slots=slots, rpm=places), max_concurrent=bound)

    assert result >= max(lengths)
    assert result >= sum(lengths) / min(slots, bound or slots)
    assert result >= WINDOW * ((len(lengths) - 1) // places)
    assert result <= sum(lengths) + WINDOW * ((len(lengths) - 1) // places)


@pytest.mark.slow
@given(lengths=LENGTHS, slots=SLOTS, places=PLACES, bound=st.integers(1, 6))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_more_slots_more_places_a_wider_bound_or_fewer_items_never_lengthen_a_plan(
    lengths, slots, places, bound
):
    wanted = items(*lengths)
    result = seconds(wanted, gate_with(slots=slots, rpm=places), max_concurrent=bound)

    assert seconds(wanted, gate_with(slots=slots + 1, rpm=places), max_concurrent=bound) <= result
    assert seconds(wanted, gate_with(slots=slots, rpm=places + 1), max_concurrent=bound) <= result
    assert seconds(wanted, gate_with(slots=slots, rpm=places), max_concurrent=bound + 1) <= result
    assert seconds(wanted[:-1], gate_with(slots=slots, rpm=places), max_concurrent=bound) <= result


@pytest.mark.slow
@given(
    lengths=LENGTHS,
    lines=st.lists(
        st.builds(
            FlowSnapshot,
            caller=st.sampled_from(["ann", "bob", "cid"]),
            batch=st.sampled_from([None, "one", "two"]),
            waiting=st.integers(0, 30),
            in_flight=st.integers(0, 5),
            max_concurrent=st.sampled_from([1, 3, math.inf]),
        ),
        max_size=5,
    ),
    held=st.lists(st.sampled_from([0.0, 0.5, 7.0, 99.0]), max_size=4).map(tuple),
    slots=SLOTS,
    places=PLACES,
    reserve=st.sampled_from([0.0, 0.25, 0.5]),
    is_long=st.booleans(),
    until=st.tuples(*[st.sampled_from([NEVER, 50.0, 120.0, 690.0])] * 2),
    spent=st.lists(st.integers(60, 160) | st.just(math.inf), max_size=20).map(tuple),
    pauses=st.fixed_dictionaries({}, optional={name: st.integers(90, 200) for name in ("ann", "bob")}),
    caller=st.sampled_from(["ann", "a newcomer"]),
    bound=BOUNDS,
)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_a_plan_ends_for_every_snapshot(
    lengths, lines, held, slots, places, reserve, is_long, until, spent, pauses, caller, bound
):
    snapshot = gate_with(
        *lines,
        slots=slots,
        rpm=places,
        places=spent,
        reserve=ReserveState(reserve, spent[: places // 2], spent[: places // 4], 110.0, is_long),
        arrivals=ArrivalsState("bob", 400.0, *until),
        paused_until=pauses,
        held=held,
    )

    planned = seconds(items(*lengths), snapshot, caller=caller, max_concurrent=bound)
    assert max(lengths) <= planned < math.inf


# ── The snapshot of the gate ────────────────────────────────────────────────────────────────────────


def test_the_snapshot_of_an_idle_gate_is_empty():
    async def scenario():
        return Gate(concurrent_limit=7, requests_per_minute=90, interactive_reserve=0.1).snapshot()

    assert gate_with(now=0.0, slots=7, rpm=90, reserve=ReserveState(share=0.1)) == run(scenario())


def test_the_snapshot_has_places_flows_pauses_and_held_seconds():
    async def scenario():
        gate = Gate(concurrent_limit=2, requests_per_minute=4, interactive_reserve=0.5)
        first = await gate.acquire("ann")
        first.sent()
        await asyncio.sleep(3)
        first.answered()
        await asyncio.sleep(4)
        first.release()
        leases = [await gate.acquire("ann", batch="one", max_concurrent=2) for _ in range(2)]
        waiting = [
            asyncio.create_task(gate.acquire("ann", batch="one")),
            *(asyncio.create_task(gate.acquire("bob")) for _ in range(3)),
        ]
        await asyncio.sleep(0)
        gate.pause("bob", 30)
        seen = gate.snapshot()
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        for lease in leases:
            lease.release()
        return seen

    assert (
        GateSnapshot(
            now=7.0,
            concurrent_limit=2,
            requests_per_minute=4,
            places=(63.0, math.inf, math.inf),
            reserve=ReserveState(
                share=0.5,
                places=(63.0, math.inf, math.inf),
                single_places=(63.0,),
                paced_until=0.97 * 15 + 0.97 * 15 + 0.97 * 15,
            ),
            arrivals=ArrivalsState("bob", 607.0, 607.0, 607.0),
            paused_until={"bob": 37.0},
            flows=(FlowSnapshot("ann", "one", 1, 2, 2), FlowSnapshot("bob", None, 3, 0, math.inf)),
            held=(7.0,),
        )
        == run(scenario())
    )  # fmt: skip


def test_another_thread_may_plan_from_a_snapshot_after_the_gate_has_changed():
    result = []

    async def scenario():
        gate = Gate(concurrent_limit=1, requests_per_minute=2)
        seen = gate.snapshot()
        (await gate.acquire("ann")).release()
        thread = Thread(target=lambda: result.append(planned(items(1, 1), seen)))
        thread.start()
        thread.join()

    run(scenario())
    assert [2.0] == [each.seconds for each in result]


# ── Against the simulator ───────────────────────────────────────────────────────────────────────────

FLUX, QWEN = "black-forest-labs/flux-dev", "qwen/qwen-image"


def clock() -> float:
    return asyncio.get_running_loop().time()


async def run_planned(service: Parts, models: list[str], *, caller=ADMIN, **fields) -> tuple[Plan, float]:
    """Run a batch with one picture for each of these models. Returns its plan, and the seconds that it took."""
    wanted = parse_batch({"requests": [{"model_name": name, "prompt": "a fox"} for name in models], **fields})
    planned = plan(
        [Item(name, 1.0, 0.03, 1) for name in models],
        service.gate.snapshot(),
        service.gate.durations,
        caller=caller.id,
        max_concurrent=wanted.max_concurrent,
    )
    began = clock()
    batch = await run_batch(service.core, wanted, plan=planned, caller=caller)
    assert [] == [each.error for each in batch.items if not each.succeeded]
    return planned, clock() - began


async def plan_and_duration(
    count: int,
    *,
    seed: int,
    slots: int,
    rpm: int = 600,
    lasts: float | None = 12,
    known: int = 24,
    models: tuple[str, ...] = (FLUX,),
    spent: int = 0,
    beside: int = 0,
    single: bool = False,
    **fields,
) -> tuple[Plan, float]:
    """The plan of a batch of `count` items, and the seconds that it took.

    Before it, `known` generations of each model are measured, eight at a time. Right before the batch, `spent` places
    of the window are taken, after a `single` call if it is true. `beside` is the size of another caller's batch, which
    begins 5 s earlier.
    """
    options = Options(prediction_seconds=lasts, jitter=0.2, answer_delay=(0.025, 0.15), seed=seed)
    limits = {"concurrent_limit": slots, "requests_per_minute": rpm, "reserve": 0.5, "timeout": 900}
    async with replicate(options, **limits) as (service, _):
        for model in models:
            for _ in range(known // 8):
                await run_planned(service, [model] * 8)
        await asyncio.sleep(WINDOW)
        if single:
            await service.run("a single call", caller=OTHER_USER)
        if spent:
            await run_planned(service, [FLUX] * spent)
        others = (
            asyncio.create_task(run_planned(service, [FLUX] * beside, caller=OTHER_USER)) if beside else None
        )
        await asyncio.sleep(5 if beside else 0)
        result = await run_planned(
            service, [models[number % len(models)] for number in range(count)], **fields
        )
        if others:
            others.cancel()
            await asyncio.wait([others])
        return result


def shown(batch: dict) -> str:
    return " ".join(f"{name}={value}" for name, value in batch.items())


IMMEDIATE = [{"count": 60, "slots": 60, "known": 64}]
WAITING = [
    {"count": 60, "slots": 10},
    {"count": 180, "slots": 60},
    {"count": 180, "slots": 60, "max_concurrent": 20},
    {"count": 80, "slots": 100, "rpm": 100, "spent": 60, "lasts": 3},
    {"count": 90, "slots": 20, "beside": 300},
    {"count": 90, "slots": 100, "rpm": 100, "lasts": 3, "single": True},
    {"count": 120, "slots": 20, "models": (FLUX, QWEN), "lasts": None},
]
QUEUED = [
    {"count": 250, "slots": 50, "rpm": 100},
    {"count": 250, "slots": 50, "rpm": 100, "spent": 50, "lasts": 3},
    {"count": 250, "slots": 50, "rpm": 100, "max_concurrent": 10},
    {"count": 250, "slots": 50, "rpm": 100, "beside": 200},
    {"count": 250, "slots": 50, "rpm": 100, "lasts": 3, "single": True},
    {"count": 250, "slots": 50, "rpm": 20, "lasts": 3},
    {"count": 250, "slots": 50, "rpm": 100, "models": (FLUX, QWEN), "lasts": None},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "batch"),
    [
        *(("immediate", batch) for batch in IMMEDIATE),
        *(("window", batch) for batch in WAITING),
        *(("queue", batch) for batch in QUEUED),
    ],
    ids=lambda value: shown(value) if isinstance(value, dict) else value,
)
def test_a_plan_is_within_10_percent_of_the_actual_duration(strategy, batch):
    result, took = run(plan_and_duration(**batch, seed=1))

    assert strategy == result.strategy
    assert pytest.approx(took, rel=0.1) == result.seconds


@pytest.mark.slow
def test_plans_of_small_batches_are_within_10_percent_on_average():
    """A batch of five ends with its longest item, which is random, so one batch is not enough."""
    results = [run(plan_and_duration(5, slots=10, known=64, seed=seed)) for seed in range(6)]

    assert {"immediate"} == {planned.strategy for planned, _ in results}
    assert pytest.approx(1, rel=0.1) == fmean(planned.seconds / took for planned, took in results)


@pytest.mark.slow
def test_a_plan_of_several_windows_is_within_3_percent_of_the_actual_duration():
    """The window determines the duration, and the window is known exactly."""
    result, took = run(plan_and_duration(1300, slots=200, seed=1))

    assert "queue" == result.strategy
    assert pytest.approx(took, rel=0.03) == result.seconds
