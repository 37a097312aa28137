"""The limits of the queue: one caller can never fill it."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admission.fair_queue import room
from auth import Caller, credentials
from concurrency import Gate
from errors import QueueFull
from providers.memory import MemoryProvider
from tests.support.virtual_time import run
from tests.support.wiring import a_picture, core, pictures, submission

GREEDY, *POLITE = (
    Caller("user", name, credentials(replicate=f"r8_{name}")) for name in ("ann", "bob", "cid", "dan", "eve")
)


def test_the_refusal_explains_the_last_quarter_of_the_queue():
    async def scenario():
        inside = core(MemoryProvider(), MAX_QUEUED=40, GENERATION_TIMEOUT=600)
        with pytest.raises(QueueFull) as refused:
            inside.supervisor.accept(submission(pictures(["a"] * 31), GREEDY))
        return refused.value

    refused = run(scenario())
    assert not refused.retryable
    assert (
        "0 generations are waiting, this adds 31, and at most 40 may wait. 0 are yours, and the last quarter is for "
        "callers who have no more than a quarter."
    ) == refused.detail


def test_one_greedy_caller_leaves_the_last_quarter_of_the_queue_to_others():
    async def scenario():
        gate = Gate(concurrent_limit=1, requests_per_minute=60)
        inside = core(MemoryProvider(), gate=gate, GENERATION_TIMEOUT=600, MAX_QUEUED=40)

        def accepts(caller, request) -> bool:
            try:
                inside.supervisor.accept(submission(request, caller))
            except QueueFull:
                return False
            return True

        greedy = [accepts(GREEDY, pictures(["a"] * 10)) for _ in range(4)]
        single = accepts(GREEDY, a_picture("a"))
        polite = [
            accepts(caller, request) for request in (pictures(["a"] * 2), a_picture("a")) for caller in POLITE
        ]
        full = accepts(POLITE[0], pictures(["a"]))
        tasks = inside.supervisor.tasks()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return greedy, single, polite, full

    greedy, single, polite, full = run(scenario())
    assert [True, True, True, False] == greedy
    assert not single
    assert [True] * 6 + [
        False
    ] * 2 == polite  # four callers with two each and two more fill the last ten places
    assert not full


@given(limit=st.integers(1, 100), own=st.integers(0, 100), others=st.integers(0, 100))
def test_a_caller_is_accepted_below_three_quarters_in_total_or_one_quarter_of_its_own(limit, own, others):
    if own + others > limit:
        return
    left = room(limit, waiting=own + others, own=own)
    quarter = limit // 4
    assert left <= limit - own - others
    for more in range(limit + 1):
        fits_for_all = own + others + more <= limit - quarter
        fits_a_quarter = own + others + more <= limit and own + more <= quarter
        assert (more <= left) == (fits_for_all or fits_a_quarter or more == 0)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_queue_of_three_or_less_has_no_last_quarter(limit):
    assert limit == room(limit, waiting=0, own=0)
