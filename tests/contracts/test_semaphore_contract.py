"""The contract of a gate about named semaphores: permits are taken with slot and place, nothing waits behind a full
semaphore, and other services take turns with waiting requests."""

import asyncio

import pytest

from admission.durations import Durations, Took
from admission.forecast import Item, plan
from tests.contracts.test_gate_contract import GATES, figures, generate
from tests.support.virtual_time import now, run, tick


@pytest.fixture(scope="module", params=GATES.values(), ids=GATES.keys())
def open_gate(request):
    """Opens a gate on the running loop with these limits."""
    return request.param


def opened(open_gate, limit=1, *, slots=10, places=600):
    gate = open_gate(concurrent_limit=slots, requests_per_minute=places)
    gate.set_semaphore("gpu", limit)
    return gate


async def many(gate, count, *, held=10.0, **how) -> list[float]:
    """Run so many generations. Returns when each was admitted."""
    admissions: list[float] = []
    await asyncio.gather(*(generate(gate, admissions, more=held, **how) for _ in range(count)))
    return admissions


@pytest.mark.parametrize("batch", [None, "one"])
def test_a_semaphore_limits_the_work_that_names_it_and_no_other(open_gate, batch):
    async def scenario():
        gate = opened(open_gate, 2)
        return await asyncio.gather(many(gate, 5, batch=batch, semaphore="gpu"), many(gate, 3, batch="other"))

    assert [[0.0, 0.0, 10.0, 10.0, 20.0], [0.0, 0.0, 0.0]] == run(scenario())


def test_a_permit_adds_no_slot_and_no_place(open_gate):
    async def scenario():
        gate = opened(open_gate, 9, slots=2)
        windowed = opened(open_gate, 9, places=1)
        return await many(gate, 4, semaphore="gpu"), await many(windowed, 2, held=0.0, semaphore="gpu")

    assert ([0.0, 0.0, 10.0, 10.0], [20.0, 80.0]) == run(scenario())


def test_a_request_that_waits_for_a_permit_holds_no_slot_and_no_place(open_gate):
    async def scenario():
        gate = opened(open_gate)
        held = await gate.acquire("ann", semaphore="gpu")
        waiting = asyncio.create_task(gate.acquire("ann", semaphore="gpu"))
        await tick()
        before = figures(gate), gate.semaphore("gpu").waiting
        waiting.cancel()
        await tick()
        held.release()
        return before, figures(gate), gate.semaphore("gpu").waiting, gate.semaphore("gpu").in_use

    assert (((1, 1, 1), 1), (0, 0, 0), 0, 0) == run(scenario())


def test_work_that_was_stepped_over_keeps_its_turn(open_gate):
    """Ann and bob take turns for one slot. Ann's batch is stepped over while its semaphore is full, and is next when it
    has a permit again, but makes up for no turns."""

    async def scenario():
        gate = opened(open_gate, slots=1)
        assert gate.lease_permit("gpu", "lease", 35.0) is None
        admissions: list[tuple[float, str]] = []

        async def one(caller, **how):
            with await gate.acquire(caller, **how):
                admissions.append((now(), caller))
                await asyncio.sleep(10)

        tasks = [asyncio.create_task(one("ann", batch="a", semaphore="gpu")) for _ in range(2)]
        tasks += [asyncio.create_task(one("bob", batch="b")) for _ in range(6)]
        await asyncio.sleep(35)
        gate.return_permit("gpu", "lease")
        await asyncio.gather(*tasks)
        return [caller for _, caller in admissions]

    assert ["bob", "bob", "bob", "bob", "ann", "bob", "ann", "bob"] == run(scenario())


def test_a_higher_limit_admits_at_once_and_a_lower_one_ends_nothing(open_gate):
    async def scenario():
        gate = opened(open_gate)
        admissions: list[float] = []
        tasks = [
            asyncio.create_task(generate(gate, admissions, more=10.0, semaphore="gpu")) for _ in range(6)
        ]
        await asyncio.sleep(1)
        gate.set_semaphore("gpu", 3)
        await asyncio.sleep(1)
        gate.set_semaphore("gpu", 1)
        in_use = gate.semaphore("gpu").in_use
        await asyncio.gather(*tasks)
        return in_use, admissions

    assert (3, [0.0, 1.0, 1.0, 11.0, 21.0, 31.0]) == run(scenario())


def test_an_adopted_prediction_takes_a_permit_even_above_the_limit(open_gate):
    async def scenario():
        gate = opened(open_gate)
        adopted = [gate.adopt("ann", semaphore="gpu") for _ in range(2)]
        in_use = gate.semaphore("gpu").in_use
        waiting = asyncio.create_task(gate.acquire("bob", semaphore="gpu"))
        adopted[0].release()
        await tick()
        still = waiting.done()
        adopted[1].release()
        await waiting
        return in_use, still

    assert (2, False) == run(scenario())


def test_a_lease_of_another_service_holds_a_permit_until_it_is_returned(open_gate):
    async def scenario():
        gate = opened(open_gate, 2)
        assert gate.lease_permit("gpu", "one", 60.0) is None
        first = await gate.acquire("ann", semaphore="gpu")
        refused = gate.lease_permit("gpu", "two", 60.0)
        gate.return_permit("gpu", "one")
        gate.return_permit("gpu", "one")
        in_use = gate.semaphore("gpu").in_use
        first.release()
        return refused is not None, in_use, gate.lease_permit("gpu", "two", 60.0)

    assert (True, 1, None) == run(scenario())


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_requests_and_other_services_take_turns_so_neither_starves(open_gate, limit):
    """Both always want more. Another service that was refused comes back after `Retry-After`."""

    async def scenario():
        gate = opened(open_gate, limit)
        admissions: list[float] = []
        tasks = [
            asyncio.create_task(generate(gate, admissions, more=10.0, semaphore="gpu")) for _ in range(500)
        ]
        taken = []

        async def service(name):
            for turn in range(1000):
                lease = f"{name} {turn}"
                while (wait := gate.lease_permit("gpu", lease, now() + 10)) is not None:  # noqa: ASYNC110
                    await asyncio.sleep(max(1, round(wait)))
                taken.append(now())
                await asyncio.sleep(10)
                gate.return_permit("gpu", lease)

        services = [asyncio.create_task(service(each)) for each in range(5)]
        await asyncio.sleep(1000)
        for task in (*tasks, *services):
            task.cancel()
        return len(admissions), len(taken)

    requests, leases = run(scenario())
    assert min(requests, leases) > 0.3 * (requests + leases)
    assert requests + leases >= 0.5 * limit * 100


def test_a_permit_is_kept_for_a_refused_service_for_half_a_minute_only(open_gate):
    async def scenario():
        gate = opened(open_gate)
        first = await gate.acquire("ann", semaphore="gpu")
        await asyncio.sleep(5)
        assert gate.lease_permit("gpu", "lease", 100.0) is not None
        waiting = asyncio.create_task(gate.acquire("ann", semaphore="gpu"))
        await asyncio.sleep(5)
        first.release()
        await waiting
        return now()

    assert 35.0 == run(scenario())


def test_a_permit_is_kept_for_requests_that_cannot_go_for_half_a_minute_only(open_gate):
    """A request waits for a slot, and another service for a permit that is free."""

    async def scenario():
        gate = opened(open_gate, slots=1)
        slot = await gate.acquire("bob")
        waiting = asyncio.create_task(gate.acquire("ann", semaphore="gpu"))
        await tick()
        assert gate.lease_permit("gpu", "one", 100.0) is not None
        while gate.lease_permit("gpu", "one", 100.0) is not None:  # noqa: ASYNC110
            await asyncio.sleep(1)
        taken = now()
        waiting.cancel()
        slot.release()
        return taken

    assert 30.0 == run(scenario())


def test_estimates_and_the_position_count_the_wait_for_a_permit(open_gate):
    async def scenario():
        gate = opened(open_gate, places=6000)
        await many(gate, 10)  # slots are held for 10 seconds
        held = await gate.acquire("ann", semaphore="gpu")
        tasks = [asyncio.create_task(gate.acquire("ann", semaphore="gpu")) for _ in range(3)]
        tasks += [asyncio.create_task(gate.acquire("bob", batch="b")) for _ in range(40)]
        await tick()
        named = [gate.estimated_wait("ann", None, ahead, "gpu", usual=1.0) for ahead in range(3)]
        places = [gate.queue_position("ann", None, ahead, "gpu") for ahead in range(3)]
        other = gate.queue_position("bob", "b", 0)
        for task in tasks:
            task.cancel()
        held.release()
        return named, places, other

    named, places, other = run(scenario())
    assert [11.0, 22.0, 33.0] == named
    assert [11, 22, 33] == places
    assert 2 == other


def test_a_full_semaphore_slows_the_estimated_drain_only_if_all_waiting_work_names_one(open_gate):
    async def scenario():
        gate = opened(open_gate, places=6000)
        await many(gate, 10)
        held = await gate.acquire("ann", semaphore="gpu")
        tasks = [asyncio.create_task(gate.acquire("ann", semaphore="gpu")) for _ in range(3)]
        await tick()
        slow = gate.seconds_per_release()
        held.release()
        for task in tasks:
            task.cancel()
        await tick()
        return slow, gate.seconds_per_release()

    slow, usual = run(scenario())
    assert (10.0, 1.0) == (slow, round(usual, 1))


@pytest.mark.parametrize(("semaphore", "seconds"), [(None, 10.0), ("gpu", 60.0), ("unknown", 10.0)])
def test_a_forecast_counts_the_permits_and_the_leases_of_other_services(open_gate, semaphore, seconds):
    """Two permits, of which another service holds one for 20 seconds: 0, 10, 20, 20, 30, 30 and so on."""

    async def scenario():
        gate = opened(open_gate, 2, slots=20)
        gate.lease_permit("gpu", "lease", 20.0)
        durations = Durations()
        durations.note("m", Took(10.0))
        items = [Item("m", 10.0, 0.0, 0)] * 10
        return plan(
            items, gate.snapshot(semaphore), durations, caller="ann", max_concurrent=None, semaphore=semaphore
        )

    assert seconds == run(scenario()).seconds


def test_a_semaphore_has_at_least_one_permit(open_gate):
    async def scenario():
        gate = opened(open_gate)
        with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
            gate.set_semaphore("gpu", 0)
        return gate.semaphore("gpu").limit

    assert 1 == run(scenario())


def test_other_work_passes_two_thousand_flows_behind_a_full_semaphore(open_gate):
    async def scenario():
        gate = opened(open_gate, slots=20_000, places=60_000)
        gate.lease_permit("gpu", "lease", 10_000.0)
        tasks = [
            asyncio.create_task(gate.acquire("ann", batch=f"batch {number}", semaphore="gpu"))
            for number in range(2_000)
        ]
        await tick()
        admissions = await many(gate, 200, caller="ann")
        for task in tasks:
            task.cancel()
        await tick()
        return admissions, figures(gate)[2], gate.semaphore("gpu").waiting

    assert ([0.0] * 200, 0, 0) == run(scenario())
