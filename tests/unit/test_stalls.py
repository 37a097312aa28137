"""A stalled upstream: it accepts requests, answers nothing, and executes the requests later. The stalls happen below
the transport, so a request whose sender has given up still arrives.
"""

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from admission.durations import Durations
from admission.forecast import Item, plan
from concurrency import Gate
from ledger.memory import MemoryLedger
from ledger.records import GenerationRecord
from providers.replicate.absence import SearchTiming
from simulator import Options
from tests.support.crash_machine import Process
from tests.support.virtual_replicate import Stalling, replicate, simulator_here
from tests.support.virtual_time import now, run
from tests.support.wiring import ADMIN, USER, a_picture, submission, until


@asynccontextmanager
async def before_a_simulator(*, slots=60, places=60, jitter=0.0, seconds=8.0, seed=1):
    """The core of a service, the simulator, and the connection between them."""
    lines: list[Stalling] = []

    def line(loopback):
        lines.append(Stalling(loopback, jitter=jitter, seed=seed))
        return lines[0]

    async with replicate(
        Options(prediction_seconds=seconds, jitter=0.2, creations_per_minute=1000, seed=seed),
        line=line,
        concurrent_limit=slots,
        requests_per_minute=places,
        timeout=600,
        search=SearchTiming(),
    ) as (service, world):
        yield service, world, lines[0]


async def drained(service, line) -> tuple[float, GenerationRecord]:
    """The seconds that a drain takes during a stall, and the one generation that it leaves."""
    began = now()
    await service.core.supervisor.drain(0)
    [record] = service.ledger.unfinished()
    line.go_on()
    return now() - began, record


def densest_minute(arrivals: list[float]) -> int:
    return max(sum(start <= each < start + 60 for each in arrivals) for start in arrivals)


def figures(gate: Gate) -> tuple[int, int, int]:
    """How many slots and places are in use, and how many creations are in doubt."""
    seen = gate.statistics()
    return seen.current_concurrent, seen.current_rate_per_minute, seen.stall.in_doubt


# ── Under load


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_stalls_of_10_to_200_s_under_load_exceed_no_limit_and_lose_no_prediction(seed):
    chance = random.Random(seed)

    async def scenario():
        async with before_a_simulator(jitter=2.0, seed=seed) as (service, world, line):

            async def stall():
                for _ in range(4):
                    await asyncio.sleep(chance.uniform(10, 60))
                    await line.stall(chance.uniform(10, 200))

            stalls = asyncio.create_task(stall())
            batch = await service.run_batch([f"picture {n}" for n in range(200)])
            await stalls
            return batch, [*world.predictions], line.arrivals

    batch, made, arrivals = run(scenario())
    assert densest_minute(arrivals) <= 60
    assert [True] * 200 == [each.succeeded for each in batch.items]
    assert sorted(each.prediction.id for each in batch.items) == sorted(each.id for each in made)
    assert 200 == len({each.creation.input["prompt"] for each in made})


# ── A lost creation keeps slot and place


LOSSES = {
    "reset": {"reset": "after"},
    "hangs": {"hang": 600},
    "cut": {"truncate": True},
    "no JSON": {"garbage": True},
    "no id": {"drop": ["id"]},
    "500": {"status": 500},
    "502": {"status": 502},
    "504": {"status": 504},
}


@pytest.mark.parametrize("fault", LOSSES.values(), ids=LOSSES)
def test_a_lost_creation_keeps_slot_and_place_until_a_search_is_answered(fault):
    async def scenario():
        async with before_a_simulator(seconds=1) as (service, world, _):
            world.faults.inject(on="create", **fault)
            world.faults.inject(on="list", times=1000, status=500)
            running = asyncio.create_task(service.run())
            await asyncio.sleep(31)
            seen = [figures(service.gate)]
            await asyncio.sleep(200)
            seen.append(figures(service.gate))
            world.faults.clear()
            while figures(service.gate)[2]:  # noqa: ASYNC110 - there is no event for this
                await asyncio.sleep(0.5)
            await asyncio.sleep(59)  # its minute began when the search ended
            seen.append(figures(service.gate))
            return seen, await running

    [early, late, after], generation = run(scenario())
    assert (1, 1, 1) == early == late
    assert 1 <= after[1]
    assert generation.succeeded


REFUSALS = {"429": {"status": 429}, "422": {"status": 422}, "503": {"status": 503}}


@pytest.mark.parametrize("fault", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_an_answer_and_leaves_nothing_in_doubt(fault):
    async def scenario():
        async with before_a_simulator(seconds=1) as (service, world, _):
            world.faults.inject(on="create", **fault)
            lost = []
            service.ledger.on_move.append(lambda _: lost.append(figures(service.gate)[2]))
            await service.run()
            return lost

    assert {0} == set(run(scenario()))


def test_a_cancelled_lost_creation_keeps_slot_and_place_and_its_prediction_is_cancelled():
    async def scenario():
        async with before_a_simulator(seconds=300) as (service, world, line):
            running = asyncio.create_task(service.run())
            await until(lambda: service.gate.statistics().current_concurrent == 1)
            line.stop()
            await asyncio.sleep(1)
            running.cancel()
            await asyncio.sleep(120)
            held = figures(service.gate)
            line.go_on()
            await asyncio.wait([running])
            return (
                held,
                [each.status for each in world.predictions],
                service.gate.statistics().current_concurrent,
            )

    assert ((1, 1, 1), ["canceled"], 0) == run(scenario())


def test_a_drain_leaves_a_lost_creation_unanswered_instead_of_waiting_for_its_search():
    async def scenario():
        async with before_a_simulator() as (service, _, line):
            running = service.core.supervisor.accept(submission(a_picture()))
            line.stop()
            await asyncio.sleep(40)
            seconds, record = await drained(service, line)
            return (
                seconds,
                running.state,
                record.attempts[0].is_in_doubt,
                record.attempts[0].answered_at,
            )

    assert (0.0, "submitting", True, None) == run(scenario())


def test_a_drain_leaves_the_search_for_a_cancelled_creation_to_the_next_process():
    async def scenario():
        async with before_a_simulator() as (service, _, line):
            cancelled = service.core.supervisor.accept(submission(a_picture()))
            line.stop()
            await asyncio.sleep(40)
            service.core.supervisor.cancel(cancelled)
            await asyncio.sleep(1)
            seconds, record = await drained(service, line)
            return seconds, record.state, record.cancelled, record.attempts[0].is_in_doubt

    assert (0.0, "submitting", True, True) == run(scenario())


def test_a_drain_that_begins_while_a_cancelled_creation_is_pending_starts_no_search():
    async def scenario():
        async with before_a_simulator() as (service, _, line):
            cancelled = service.core.supervisor.accept(submission(a_picture()))
            line.stop()
            await asyncio.sleep(10)
            service.core.supervisor.cancel(cancelled)
            _, record = await drained(service, line)
            return now(), record.cancelled, record.attempts[0].is_in_doubt

    assert (30.0, True, True) == run(scenario())


# ── The stall


def test_a_stall_admits_nothing_and_then_one_creation_at_a_time_until_one_is_answered():
    async def scenario():
        async with before_a_simulator(slots=10, jitter=0.2) as (service, world, line):
            line.stop()
            first = asyncio.create_task(service.run_batch([f"first {n}" for n in range(3)]))
            await asyncio.sleep(29)
            assert 3 == service.gate.statistics().current_concurrent
            await asyncio.sleep(2)
            then = asyncio.create_task(service.run_batch([f"then {n}" for n in range(50)]))
            await asyncio.sleep(60)
            stalled = figures(service.gate), service.gate.statistics().stall
            line.go_on()
            await asyncio.gather(first, then)
            return stalled, service.gate.statistics().stall, line.arrivals, len([*world.predictions])

    stalled, back, arrivals, made = run(scenario())
    assert (3, 3, 3) == stalled[0]
    assert (True, None) == (stalled[1].is_on, stalled[1].back_at)
    assert (False, 0) == (back.is_on, back.in_doubt)
    assert back.back_at >= back.stalled_at
    assert 53 == made == len(arrivals)


def test_after_a_stall_one_creation_goes_and_the_others_once_it_is_answered():
    async def scenario():
        gate = Gate(concurrent_limit=10, requests_per_minute=60)
        lost = await gate.acquire("ann")
        lost.sent()
        await asyncio.sleep(30)
        lost.lost()
        waiting = [asyncio.create_task(gate.acquire("ann")) for _ in range(4)]
        await asyncio.sleep(5)
        seen = [sum(each.done() for each in waiting)]
        gate.upstream_answered(0.0)  # sent with the lost creation, so its answer proves nothing
        await asyncio.sleep(1)
        seen.append(sum(each.done() for each in waiting))
        gate.upstream_answered(now() - 0.5)
        await asyncio.sleep(1)
        seen.append(sum(each.done() for each in waiting))
        probe = waiting[0].result()
        probe.sent()
        await asyncio.sleep(30)
        probe.lost()
        await asyncio.sleep(1)
        seen.append(sum(each.done() for each in waiting))
        gate.upstream_answered(now())
        await asyncio.sleep(1)
        seen.append(sum(each.done() for each in waiting))
        second = waiting[1].result()
        second.sent()
        second.answered()
        await asyncio.sleep(1)
        seen.append(sum(each.done() for each in waiting))
        return seen, figures(gate)

    assert ([0, 0, 1, 1, 2, 4], (5, 5, 2)) == run(scenario())


def test_a_creation_sent_before_the_lost_one_and_answered_after_it_proves_nothing():
    async def scenario():
        gate = Gate(concurrent_limit=4, requests_per_minute=60)
        before, lost, after = [await gate.acquire("ann") for _ in range(3)]
        for lease in (before, lost, after):
            await asyncio.sleep(1)
            lease.sent()
        lost.lost()
        before.answered()
        waiting = asyncio.create_task(gate.acquire("ann"))
        await asyncio.sleep(10)
        early = waiting.done()
        after.answered()
        await asyncio.sleep(0.1)
        return early, waiting.done()

    assert (False, True) == run(scenario())


def test_one_dropped_connection_slows_no_other_request():
    async def scenario(drop):
        async with before_a_simulator(slots=10, places=600, jitter=0.2) as (service, world, _):
            if drop:
                world.faults.inject(on="create", after=15, reset="after")
            await service.run_batch([f"picture {n}" for n in range(60)])
            return now()

    undisturbed, disturbed = run(scenario(drop=False)), run(scenario(drop=True))
    assert disturbed <= 1.03 * undisturbed


def test_unknown_outcomes_do_not_close_the_gate_forever():
    async def scenario():
        gate = Gate(concurrent_limit=10, requests_per_minute=60)
        lost = await gate.acquire("ann")
        lost.sent()
        lost.lost()
        lost.release()
        probe = await gate.acquire("ann")
        other = asyncio.create_task(gate.acquire("ann"))
        await asyncio.sleep(10)
        waits = other.done()
        probe.sent()
        probe.answered()
        await other
        return waits

    assert run(scenario()) is False


# ── Restarts


def stalling_world():
    """The simulator on this loop, and the connection to it."""
    world, loopback = simulator_here(Options(prediction_seconds=1, answer_delay=(0.0, 0.2), seed=1))
    return world, Stalling(loopback)


@pytest.mark.parametrize("caller", [ADMIN, USER], ids=["the admin's", "a user's"])
def test_the_next_process_counts_a_creation_in_doubt_until_it_has_found_it(caller):
    async def scenario():
        world, line = stalling_world()
        rows = MemoryLedger().rows
        first = Process(rows, line)
        wanted = submission(a_picture(), caller, key="one", wait_seconds=0)
        await first.generations.submit(wanted)
        line.stop()
        await asyncio.sleep(5)
        await first.killed()
        second = Process(rows, line)
        if caller is USER:
            assert (0, 1, 0) == figures(second.core.gate)
            await second.generations.submit(submission(a_picture(), caller, key="one", wait_seconds=0))
        await second.generations.submit(submission(a_picture("another"), wait_seconds=0))
        await asyncio.sleep(100)
        held, sent = figures(second.core.gate), len(line.arrivals)
        line.go_on()
        await asyncio.sleep(60)
        made = Counter(each.creation.input["prompt"] for each in world.predictions)
        left = second.ledger.unfinished()
        await second.killed()
        await world.close()
        return held, sent, made, left

    held, sent, made, left = run(scenario())
    assert (1, 1, 1) == held
    assert 0 == sent
    assert {"A lighthouse at dusk": 1, "another": 1} == made
    assert [] == left


def test_kills_during_stalls_exceed_no_limit_and_pay_for_nothing_twice():
    """A process counts the places of earlier processes by the wall clock, which does not advance here: for a minute
    from its own start."""
    chance = random.Random(1)

    async def scenario():
        world, line = stalling_world()
        rows, made = MemoryLedger().rows, 0
        process = Process(rows, line, places=6)
        for _ in range(12):
            for _ in range(chance.randint(1, 4)):
                made += 1
                await process.generations.submit(submission(a_picture(f"picture {made}"), wait_seconds=0))
            await asyncio.sleep(chance.uniform(0, 20))
            line.stop()
            await asyncio.sleep(chance.uniform(0, 100))
            await process.killed()
            process = Process(rows, line, places=6)
            await asyncio.sleep(chance.uniform(0, 40))
            line.go_on()
        await asyncio.sleep(2000)
        prompts = Counter(each.creation.input["prompt"] for each in world.predictions)
        states = {each.state for each in process.ledger.all(GenerationRecord)}
        await process.killed()
        await world.close()
        return made, prompts, states, line.arrivals

    made, prompts, states, arrivals = run(scenario())
    assert {"succeeded"} == states
    assert {1} == set(prompts.values())
    assert made == len(prompts)
    assert densest_minute(arrivals) <= 6


# ── Status, events and bodies


def test_a_stall_and_its_end_are_logged_once_each():
    async def scenario():
        async with before_a_simulator(seconds=1) as (service, _, line):
            line.stop()
            running = asyncio.create_task(service.run_batch(["a fox", "a hare"]))
            await asyncio.sleep(100)
            line.go_on()
            await running

    with capture_logs() as logs:
        run(scenario())
    events = [each["event"] for each in logs if each["event"].startswith("upstream_")]
    assert ["upstream_stalled", "upstream_recovered"] == events


def test_one_dropped_connection_is_no_stall():
    async def scenario():
        async with before_a_simulator(seconds=1, jitter=0.2) as (service, world, _):
            world.faults.inject(on="create", reset="after")
            await service.run()
            return service.gate.statistics().stall.stalled_at

    with capture_logs() as logs:
        assert run(scenario()) is None
    assert [] == [each for each in logs if each["event"].startswith("upstream_")]


def test_a_generation_shows_that_its_creation_is_in_doubt():
    async def scenario():
        async with before_a_simulator(seconds=1) as (service, _, line):
            line.stop()
            generation = service.core.supervisor.accept(submission(a_picture()))
            bodies = []
            for seconds in (10, 30):
                await asyncio.sleep(seconds)
                bodies.append(service.core.generations.status.body(generation, "http://service.test"))
            line.go_on()
            await service.core.supervisor.wait(generation)
            bodies.append(service.core.generations.status.body(generation, "http://service.test"))
            return [(each["status"], each.get("creation_in_doubt")) for each in bodies]

    assert [("submitting", None), ("submitting", True), ("succeeded", None)] == run(scenario())


def test_a_plan_made_in_a_stall_expects_it_to_last_as_long_again():
    async def scenario():
        gate = Gate(concurrent_limit=10, requests_per_minute=60)
        lost = await gate.acquire("ann")
        lost.sent()
        await asyncio.sleep(30)
        lost.lost()
        seen = gate.snapshot()
        waits = gate.estimated_wait("bob", None, 0, usual=8.0)
        found = plan([Item("model", 8.0, 0.01, 1)], seen, Durations(), caller="bob", max_concurrent=None)
        return waits, found.strategy, found.seconds

    assert (30.0, "window", 38.0) == run(scenario())
