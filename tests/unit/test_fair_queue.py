"""The fair queue: turns of callers, batches and single calls."""

import asyncio
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission import fair_queue
from admission.fair_queue import FairQueue
from admission.flows import UNPROVEN, is_single
from admission.semaphores import Semaphores
from concurrency import Gate
from tests.support.virtual_time import run


def names(queue: FairQueue, count: int) -> list[str]:
    """The callers of the tickets that are taken, in order. Each ticket is a (caller, number)."""
    return [queue.take(0.0)[0][0][0] for _ in range(count)]


def add(queue: FairQueue, name: str, count: int, caller: str, batch: str | None = None, **how) -> None:
    queue.add([(name, number) for number in range(count)], caller, batch, **how)


@pytest.mark.parametrize("caller", ["ann", "bob"])
@pytest.mark.parametrize("already_admitted", [0, 1, 2, 5_000])
def test_a_single_call_beside_10000_items_is_among_the_next_three_tickets(caller, already_admitted):
    queue = FairQueue()
    add(queue, "batch", 10_000, "ann", "big")
    names(queue, already_admitted)
    add(queue, "single", 1, caller)
    assert "single" in names(queue, 3)


@pytest.mark.parametrize("caller", ["ann", "bob"])
def test_a_single_call_beside_10000_items_is_admitted_within_three_admissions(caller):
    async def scenario():
        gate = Gate(concurrent_limit=10, requests_per_minute=100_000)
        order = []

        async def generate(name, caller, batch=None):
            with await gate.acquire(caller, batch=batch) as lease:
                order.append(name)
                lease.sent()
                await asyncio.sleep(1)

        work = [asyncio.create_task(generate("batch", "ann", "big")) for _ in range(10_000)]
        await asyncio.sleep(100.5)
        before = len(order)
        await generate("single", caller)
        for task in work:
            task.cancel()
        return order.index("single") - before

    assert run(scenario()) < 3


def test_batches_of_two_callers_share_evenly_even_if_one_came_first():
    queue = FairQueue()
    add(queue, "first", 5_000, "ann", "one")
    names(queue, 1_000)
    add(queue, "second", 5_000, "bob", "two")
    taken = names(queue, 1_000)
    assert {"first": 500, "second": 500} == {name: taken.count(name) for name in set(taken)}


def test_two_batches_of_one_caller_and_its_single_calls_share_evenly():
    queue = FairQueue()
    add(queue, "one", 100, "ann", "one")
    add(queue, "two", 100, "ann", "two")
    add(queue, "single", 100, "ann")
    taken = names(queue, 90)
    assert {"one": 30, "two": 30, "single": 30} == {name: taken.count(name) for name in set(taken)}


def test_a_caller_with_many_batches_gets_no_more_turns_than_with_one():
    queue = FairQueue()
    for number in range(50):
        queue.add([("many", (number, each)) for each in range(10)], "ann", f"batch {number}")
    add(queue, "one", 100, "bob", "only")
    assert 50 == names(queue, 100).count("one")


def test_a_caller_who_returns_again_and_again_does_not_starve_others():
    queue = FairQueue()
    add(queue, "patient", 100, "ann", "big")
    taken = []
    for number in range(100):
        if number % 2 == 0:
            queue.add([("returning", number)], "bob")
        taken += names(queue, 1)
    assert (50, 50) == (taken.count("patient"), taken.count("returning"))


def test_repeated_new_batches_of_a_caller_do_not_starve_its_other_batch():
    queue = FairQueue()
    add(queue, "patient", 100, "ann", "big")
    taken = []
    for number in range(0, 100, 2):
        queue.add([("returning", number)], "ann", f"batch {number}")
        taken += names(queue, 2)
    assert (50, 50) == (taken.count("patient"), taken.count("returning"))


def test_an_absent_caller_accumulates_no_turns():
    queue = FairQueue()
    add(queue, "away", 1, "ann")
    names(queue, 1)
    add(queue, "steady", 1_000, "bob", "big")
    names(queue, 500)
    add(queue, "away", 500, "ann", "big")
    assert 50 == names(queue, 100).count("away")


def test_a_paused_caller_accumulates_no_turns():
    queue = FairQueue()
    add(queue, "paused", 500, "ann", "big")
    add(queue, "steady", 1_000, "bob", "big")
    queue.pause("ann", 10.0)
    assert {"steady"} == set(names(queue, 500))
    taken = []
    for _ in range(100):
        taken.append(queue.take(10.0)[0][0][0])
        queue.proceed("ann")
    assert 50 == taken.count("paused")


def test_a_caller_whose_batches_are_paced_accumulates_no_turns():
    queue = FairQueue()
    add(queue, "batch", 500, "ann", "big")
    add(queue, "single", 1_000, "bob")
    assert {"single"} == {queue.take(0.0, allowed=is_single)[0][0][0] for _ in range(500)}
    assert 50 == names(queue, 100).count("batch")


def test_leaving_and_returning_accumulates_no_turns():
    queue = FairQueue()
    add(queue, "leaver", 10, "ann", "big")
    add(queue, "steady", 1_000, "bob", "big")
    for number in range(10):
        queue.discard(("leaver", number))
    names(queue, 500)
    add(queue, "leaver", 500, "ann", "big")
    assert 50 == names(queue, 100).count("leaver")


def test_max_concurrent_limits_its_batch_and_no_other():
    async def scenario():
        gate = Gate(concurrent_limit=10, requests_per_minute=1_000)
        in_flight = {"bound": 0, "free": 0}
        most = dict(in_flight)
        ends = {}

        async def generate(batch, bound):
            with await gate.acquire("ann", batch=batch, max_concurrent=bound):
                in_flight[batch] += 1
                most[batch] = max(most[batch], in_flight[batch])
                await asyncio.sleep(1)
                in_flight[batch] -= 1
            ends[batch] = asyncio.get_running_loop().time()

        await asyncio.gather(
            *(generate("bound", 2) for _ in range(20)), *(generate("free", None) for _ in range(40))
        )
        return most, ends

    assert ({"bound": 2, "free": 8}, {"bound": 10.0, "free": 5.0}) == run(scenario())


def test_tickets_of_one_batch_are_taken_in_order_of_arrival():
    queue = FairQueue()
    add(queue, "batch", 100, "ann", "big")
    assert list(range(100)) == [queue.take(0.0)[0][0][1] for _ in range(100)]


def test_discarding_an_unknown_ticket_is_no_error():
    queue = FairQueue()
    queue.discard("nobody")
    assert 0 == len(queue)


def test_callers_without_tickets_are_forgotten():
    queue = FairQueue()
    for number in range(10_000):
        queue.add([number], f"caller {number}", f"batch {number}")
        [ticket], flow = queue.take(0.0)
        flow.released(ticket)
    assert len(queue.callers) <= 128


def test_a_paused_caller_is_not_forgotten_before_the_pause_ends():
    queue = FairQueue()
    queue.pause("ann", 10.0)
    for number in range(1_000):
        queue.add([number], f"caller {number}")
        queue.take(0.0)
    queue.add(["held"], "ann")
    assert (None, 10.0, 10.0) == (queue.take(0.0), queue.next_pause_end(0.0), queue.longest_pause(0.0))
    assert ["held"] == queue.take(10.0)[0]


@given(
    pushed=st.lists(
        st.tuples(
            st.sampled_from(["ann", "bob", "cid"]),
            st.sampled_from([None, "one", "two"]),
            st.integers(1, 30),
            st.integers(0, 10),
        ),
        max_size=12,
    )
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_while_two_callers_wait_neither_gets_two_turns_more_than_the_other(pushed):
    queue, taken, waiting = FairQueue(), [], []

    def take():
        found = queue.take(0.0)
        if found is not None:
            taken.append(found[0][0][0])
            waiting.append(frozenset(flow.caller for flow in queue.snapshot() if flow.waiting))

    for step, (caller, batch, count, takes) in enumerate(pushed):
        for number in range(count):
            queue.add([(caller, step, number)], caller, batch)
        for _ in range(takes):
            take()
    while queue:
        take()
    assert sum(count for *_, count, _ in pushed) == len(taken)
    for one, other in (("ann", "bob"), ("bob", "cid"), ("ann", "cid")):
        lead = low = high = 0
        for name, still in zip(taken, waiting, strict=True):
            lead += (name == one) - (name == other)
            low, high = min(low, lead), max(high, lead)
            if not {one, other} <= still:
                lead = low = high = 0
            assert high - low <= 2


def test_the_cost_of_an_admission_does_not_grow_with_the_number_of_waiters():
    """The cost is counted in function calls. The heap's comparisons, which grow with the logarithm, are not counted."""

    def calls(waiting: int) -> int:
        queue, seen = FairQueue(), []

        def note(frame, event, argument):
            if frame.f_code.co_filename == fair_queue.__file__:  # leave out the calls of a garbage collection
                seen.append(event)

        for number in range(waiting):
            queue.add([number], f"caller {number % (waiting // 4)}", f"batch {number % 3}")
        sys.setprofile(note)
        try:
            queue.take(0.0)
        finally:
            sys.setprofile(None)
        return len(seen)

    assert calls(40) == calls(40_000)


def test_turns_never_go_back():
    queue = FairQueue()
    add(queue, "batch", 100, "ann", "big")
    add(queue, "other", 100, "bob", "big")
    turns = []
    for number in range(200):
        if number % 10 == 0:
            queue.pause("ann", float(number % 20))
            queue.proceed("ann")
        if taken := queue.take(15.0):
            turns.append(taken[1].owner.turn_end)
    assert [] == [pair for pair in pairwise(turns) if pair[0] > pair[1]]


@pytest.mark.parametrize("already_taken", [0, 1, 2, 5, 9, 21, 30])
def test_a_queue_restored_from_a_snapshot_takes_the_turns_of_the_first(already_taken):
    first, copy = FairQueue(), FairQueue()
    for caller, batch in [
        ("ann", "one"),
        ("ann", "two"),
        (UNPROVEN, UNPROVEN),
        ("bob", "one"),
        ("ann", None),
    ]:
        add(first, (caller, batch), 40, caller, batch)
    names(first, already_taken)
    seen = first.snapshot()
    for each in seen:
        add(copy, (each.caller, each.batch), each.waiting, each.caller, each.batch)
    copy.restore_turns(seen, Semaphores())
    for queue in (first, copy):
        add(queue, "newcomer", 30, "cid")
        add(queue, "another batch", 30, "ann", "three")

    assert names(first, 100) == names(copy, 100)


def test_single_calls_with_several_semaphores_count_together_for_the_half_of_the_slots():
    async def scenario():
        gate = Gate(concurrent_limit=2, requests_per_minute=1000)
        gate.set_semaphore("gpu", 1)
        await gate.acquire("ann", semaphore="gpu")
        other = await gate.acquire("carl")
        ann, bob = gate.request("ann"), gate.request("bob")
        other.release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return ann.granted.done(), bob.granted.done()

    assert (False, True) == run(scenario())
