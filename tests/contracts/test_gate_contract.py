"""The contract of a gate: the cost of an admission, its moment, and that a cancelled wait leaves nothing behind. To
test another implementation, add a line to `GATES`.
"""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission.snapshot import GateStats
from concurrency import Gate
from tests.support.virtual_time import now, run, tick

GATES = {"of one process": Gate}


@pytest.fixture(scope="module", params=GATES.values(), ids=GATES.keys())
def open_gate(request):
    """Opens a gate on the running loop with these limits."""
    return request.param


async def generate(gate, admissions, caller="ann", *, answer=0.0, more=0.0, **how) -> float:
    """Run one generation: its answer takes `answer` seconds, and its end `more` seconds after that. Returns the seconds
    that it waited."""
    asked_at = now()
    with await gate.acquire(caller, **how) as lease:
        waited = now() - asked_at
        admissions.append(now())
        lease.sent()
        await asyncio.sleep(answer)
        lease.answered()
        await asyncio.sleep(more)
    return waited


async def generate_many(gate, count, caller="ann", **how) -> list[float]:
    """Run so many generations. Returns when each was admitted."""
    admissions: list[float] = []
    await asyncio.gather(*(generate(gate, admissions, caller, **how) for _ in range(count)))
    return admissions


def figures(gate) -> tuple[int, int, int]:
    """In flight, in the window, waiting."""
    seen = gate.statistics()
    return seen.current_concurrent, seen.current_rate_per_minute, seen.waiting


# ── The window ──────────────────────────────────────────────────────────────────────────────────────


def test_an_expected_creation_keeps_no_other_place_longer_than_its_minute(open_gate):
    """The place of a creation that may arrive within 20 seconds is free after 80. A place that is answered meanwhile is
    free after its own 60."""

    async def scenario():
        gate = open_gate(concurrent_limit=10, requests_per_minute=2)
        gate.count([-20.0])
        came = []
        for _ in range(3):
            with await gate.acquire("ann") as lease:
                lease.sent()
                lease.answered()
            came.append(asyncio.get_running_loop().time())
        return came

    assert [0.0, 60.0, 80.0] == run(scenario())


def test_adopted_predictions_delay_no_request_after_a_pause(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=10, requests_per_minute=60)
        gate.pause("ann", 5.0)
        with gate.adopt("ann"):
            await gate.acquire("ann")
            return asyncio.get_running_loop().time()

    assert 5.0 == run(scenario())


def test_1800_admissions_at_600_a_minute_take_exactly_two_minutes(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=1800, requests_per_minute=600)
        return Counter(await generate_many(gate, 1800))

    assert {0.0: 600, 60.0: 600, 120.0: 600} == run(scenario())


def test_slots_alone_bound_a_batch_when_the_window_is_wide(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=50, requests_per_minute=3000)
        return Counter(await generate_many(gate, 200, more=2.0))

    assert {0.0: 50, 2.0: 50, 4.0: 50, 6.0: 50} == run(scenario())


def test_an_answered_place_counts_exactly_60_seconds_from_its_answer(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=2, requests_per_minute=1)
        admissions = []
        await asyncio.gather(*(generate(gate, admissions, answer=7.5) for _ in range(3)))
        return admissions

    assert [0.0, 67.5, 135.0] == run(scenario())


def test_a_sent_place_without_an_answer_never_expires(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=2, requests_per_minute=1)
        lease = await gate.acquire("ann")
        lease.sent()
        waiter = asyncio.create_task(gate.acquire("bob"))
        await asyncio.sleep(1_000_000)
        assert (1, 1, 1) == figures(gate)
        lease.answered()
        await waiter
        return now()

    assert 1_000_060.0 == run(scenario())


def test_a_lease_released_without_an_answer_counts_from_its_release(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=2, requests_per_minute=1)
        with await gate.acquire("ann") as lease:
            lease.sent()
            await asyncio.sleep(5)
        await gate.acquire("bob")
        return now()

    assert 65.0 == run(scenario())


def test_a_lease_never_sent_gives_its_place_back_at_once(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=1, requests_per_minute=1, interactive_reserve=0.5)
        for _ in range(5):
            with await gate.acquire("ann"):
                assert (1, 1, 0) == figures(gate)
        return now(), figures(gate)

    assert (0.0, (0, 0, 0)) == run(scenario())


def test_a_lease_is_for_one_request(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=1, requests_per_minute=5)
        with await gate.acquire("ann") as lease:
            lease.sent()
            with pytest.raises(RuntimeError, match=r"^a lease is for one request; this one is sent$"):
                lease.sent()
            lease.answered()
            with pytest.raises(RuntimeError, match=r"^a lease is for one request; this one is answered$"):
                lease.sent()
        with pytest.raises(RuntimeError, match=r"^a lease is for one request; this one is released$"):
            lease.sent()
        return figures(gate)

    assert (0, 1, 0) == run(scenario())


def test_a_second_call_of_answered_or_release_has_no_effect(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=2, requests_per_minute=5)
        lease, _other = await gate.acquire("ann"), await gate.acquire("ann")
        lease.sent()
        for act in (lease.answered, lease.answered, lease.release, lease.release, lease.answered):
            act()
        return figures(gate)

    assert (1, 2, 0) == run(scenario())


# ── Slot and place together ─────────────────────────────────────────────────────────────────────────


async def figures_with_three_waiters(gate):
    waiters = [asyncio.create_task(gate.acquire("bob")) for _ in range(3)]
    await tick()
    seen = figures(gate)
    for waiter in waiters:
        waiter.cancel()
    return seen


def test_a_waiter_for_a_slot_holds_no_place(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=1, requests_per_minute=10)
        await gate.acquire("ann")
        return await figures_with_three_waiters(gate)

    assert (1, 1, 3) == run(scenario())


def test_a_waiter_for_a_place_holds_no_slot(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=10, requests_per_minute=1)
        await generate_many(gate, 1)
        return await figures_with_three_waiters(gate)

    assert (0, 1, 3) == run(scenario())


# ── Cancelled waiters ───────────────────────────────────────────────────────────────────────────────


def test_a_cancelled_waiter_costs_no_slot_and_no_place(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=1, requests_per_minute=10)
        lease = await gate.acquire("ann")
        waiter = asyncio.create_task(gate.acquire("bob"))
        await tick()
        waiter.cancel()
        await tick()
        assert (1, 1, 0) == figures(gate)
        lease.release()
        await tick()
        return waiter.cancelled(), figures(gate)

    assert (True, (0, 0, 0)) == run(scenario())


def test_a_timed_out_waiter_costs_no_slot_and_no_place(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=1, requests_per_minute=10)
        lease = await gate.acquire("ann")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await gate.acquire("bob")
        lease.release()
        await tick()
        return now(), figures(gate)

    assert (5.0, (0, 0, 0)) == run(scenario())


# ── Changing the limits ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"concurrent_limit": 0}, "concurrent_limit must be at least 1, got 0"),
        ({"requests_per_minute": 0}, "requests_per_minute must be at least 1, got 0"),
        (
            {"concurrent_limit": 9, "requests_per_minute": -1},
            "requests_per_minute must be at least 1, got -1",
        ),
        (
            {"concurrent_limit": -2, "requests_per_minute": 9},
            "concurrent_limit must be at least 1, got -2",
        ),
    ],
)
def test_a_bad_limit_changes_nothing(open_gate, limits, message):
    async def scenario():
        gate = open_gate(concurrent_limit=3, requests_per_minute=4)
        before = gate.statistics()
        with pytest.raises(ValueError) as refusal:  # noqa: PT011 - compared whole below
            gate.configure(**limits)
        assert message == str(refusal.value)
        assert before == gate.statistics()
        with pytest.raises(ValueError) as refusal:  # noqa: PT011
            open_gate(**{"concurrent_limit": 3, "requests_per_minute": 4} | limits)
        assert message == str(refusal.value)

    run(scenario())


@pytest.mark.parametrize("share", [-0.1, 1, 1.5])
def test_a_reserve_must_be_at_least_0_and_below_1(open_gate, share):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        open_gate(concurrent_limit=1, requests_per_minute=1, interactive_reserve=share)
    assert f"interactive_reserve must be from 0 to below 1, got {share}" == str(refusal.value)


def test_raising_the_slot_limit_admits_at_once(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=1, requests_per_minute=100)
        waiting = asyncio.gather(*(gate.acquire("ann") for _ in range(10)))
        await asyncio.sleep(5)
        gate.configure(concurrent_limit=7)
        await tick()
        assert (7, 7, 3) == figures(gate)
        gate.configure(concurrent_limit=10)
        await waiting
        return now()

    assert 5.0 == run(scenario())


def test_raising_the_window_limit_admits_at_once(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=100, requests_per_minute=2)
        work = asyncio.create_task(generate_many(gate, 10))
        await asyncio.sleep(5)
        gate.configure(requests_per_minute=10)
        return Counter(await work)

    assert {0.0: 2, 5.0: 8} == run(scenario())


def test_lowering_the_slot_limit_cancels_nothing_and_admits_again_below_it(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=4, requests_per_minute=100)
        leases = [await gate.acquire("ann") for _ in range(4)]
        waiter = asyncio.create_task(gate.acquire("bob"))
        gate.configure(concurrent_limit=2)
        seen = []
        for lease in leases[:3]:
            await tick()
            seen.append(figures(gate)[0::2])
            lease.release()
        await waiter
        return seen, figures(gate)[0::2], gate.statistics().available_slots

    assert ([(4, 1), (3, 1), (2, 1)], (2, 0), 0) == run(scenario())


def test_lowering_the_window_limit_admits_nothing_until_places_expire_below_it(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=100, requests_per_minute=10)
        admissions = []
        early = asyncio.gather(*(generate(gate, admissions, answer=float(n)) for n in range(10)))
        await tick()
        gate.configure(requests_per_minute=2)
        await early
        return await generate_many(gate, 4)

    assert [68.0, 69.0, 128.0, 129.0] == run(scenario())


# ── Boots ───────────────────────────────────────────────────────────────────────────────────────────


async def boot(gate, admissions, *, boots="cold", starts=10.0, runs=2.0, **how) -> None:
    """Run one generation whose prediction starts and ends after so many seconds."""
    with await gate.acquire("ann", boots=boots, **how) as lease:
        admissions.append(now())
        lease.sent()
        lease.answered()
        await asyncio.sleep(starts)
        lease.started()
        await asyncio.sleep(runs)


def test_half_of_the_slots_boot_at_a_time_and_each_start_admits_the_next(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=4, requests_per_minute=1000)
        admissions = []
        works = [asyncio.create_task(boot(gate, admissions)) for _ in range(5)]
        await tick()
        assert (2, 2, 3) == figures(gate)
        assert 2 == gate.statistics().booting
        await asyncio.gather(*works)
        assert 0 == gate.statistics().booting
        return admissions

    assert [0.0, 0.0, 10.0, 10.0, 20.0] == run(scenario())


def test_boots_delay_nothing_else_not_even_of_the_same_batch(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=4, requests_per_minute=1000)
        cold = []
        booting = [asyncio.create_task(boot(gate, cold, batch="b")) for _ in range(8)]
        other = [asyncio.create_task(boot(gate, [], boots="colder")) for _ in range(1)]
        await tick()
        warm = await generate_many(gate, 3, more=1.0, batch="b")
        for each in (*booting, *other):
            each.cancel()
        return warm

    assert [0.0, 1.0, 2.0] == run(scenario())


def test_the_end_of_a_prediction_that_never_started_admits_the_next(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=1, requests_per_minute=1000)
        lease = await gate.acquire("ann", boots="cold")
        waiter = asyncio.create_task(gate.acquire("ann", boots="cold"))
        await asyncio.sleep(5)
        lease.release()
        lease.started()
        await waiter
        return now()

    assert 5.0 == run(scenario())


def test_a_lease_that_is_not_sent_starts_nothing(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=2, requests_per_minute=1000)
        lease = await gate.acquire("ann", boots="cold")
        lease.started()
        waiter = asyncio.create_task(gate.acquire("ann", boots="cold"))
        await tick()
        assert (1, 1, 1) == figures(gate)
        lease.sent()
        lease.answered()
        for _ in range(2):
            lease.started()
        await waiter
        return figures(gate)

    assert (2, 2, 0) == run(scenario())


def test_more_slots_let_more_boot_at_once(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=2, requests_per_minute=1000)
        admissions = []
        works = [asyncio.create_task(boot(gate, admissions)) for _ in range(4)]
        await asyncio.sleep(5)
        gate.configure(concurrent_limit=6)
        await asyncio.gather(*works)
        return admissions

    assert [0.0, 5.0, 5.0, 10.0] == run(scenario())


def test_adopted_predictions_boot_until_they_start(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=2, requests_per_minute=1000)
        adopted = gate.adopt("ann", boots="cold")
        waiter = asyncio.create_task(gate.acquire("bob", boots="cold"))
        await asyncio.sleep(5)
        adopted.started()
        await waiter
        return now()

    assert 5.0 == run(scenario())


# ── Pausing one caller ──────────────────────────────────────────────────────────────────────────────


def test_a_pause_holds_only_its_caller(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=10, requests_per_minute=10)
        gate.pause("ann", 30.0)
        ann, bob = await asyncio.gather(generate_many(gate, 2, "ann"), generate_many(gate, 2, "bob"))
        return ann, bob

    assert ([30.0, 30.0], [0.0, 0.0]) == run(scenario())


def test_after_a_pause_one_creation_at_a_time_is_admitted_until_one_is_accepted(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=10, requests_per_minute=100)
        gate.pause("ann", 10.0)
        admissions = []
        works = [asyncio.create_task(generate(gate, admissions, answer=2.0)) for _ in range(5)]
        await asyncio.sleep(13)
        assert [10.0, 12.0] == admissions
        gate.proceed("ann")
        await asyncio.gather(*works)
        return admissions

    assert [10.0, 12.0, 13.0, 13.0, 13.0] == run(scenario())


def test_a_creation_sent_before_the_pause_does_not_end_the_caution_after_it(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=10, requests_per_minute=100)
        early = await gate.acquire("ann")
        gate.pause("ann", 10.0)
        works = asyncio.create_task(generate_many(gate, 3, answer=2.0))
        early.sent()
        await asyncio.sleep(5)
        early.answered()
        gate.proceed("ann")
        return await works

    assert [10.0, 12.0, 14.0] == run(scenario())


def test_a_shorter_pause_does_not_end_a_longer_one(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=10, requests_per_minute=100)
        gate.pause("ann", 20.0)
        gate.pause("ann", 5.0)
        return await generate_many(gate, 1)

    assert [20.0] == run(scenario())


class PoorAccount:
    """Accepts one creation every ten seconds, as Replicate does for an account with little credit."""

    def __init__(self) -> None:
        self.free_at = 0.0
        self.taken: list[float] = []
        self.refused: list[float] = []

    def create(self) -> bool:
        is_free = now() >= self.free_at
        if is_free:
            self.free_at = now() + 10
        (self.taken if is_free else self.refused).append(now())
        return is_free


def test_a_low_credit_account_is_paced_without_a_second_refusal(open_gate):
    async def scenario():
        account, gate = PoorAccount(), open_gate(concurrent_limit=20, requests_per_minute=600)

        async def live():
            created = False
            while not created:
                with await gate.acquire("poor") as lease:
                    lease.sent()
                    created = account.create()
                    await asyncio.sleep(0.25)
                    lease.answered()
                    await tick(10)  # the answer passes through several tasks before it takes effect
                    if created:
                        gate.proceed("poor", exhausted_for=account.free_at - now())
                        await asyncio.sleep(30)
                if not created:
                    gate.pause("poor", account.free_at - now())

        await asyncio.gather(*(live() for _ in range(20)))
        return account.taken, account.refused

    assert ([10.0 * n for n in range(20)], [0.0] * 19) == run(scenario())


def test_an_accepted_creation_does_not_pause_a_caller_who_was_never_paused(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=10, requests_per_minute=100)
        gate.proceed("ann", exhausted_for=30.0)
        return await generate_many(gate, 2)

    assert [0.0, 0.0] == run(scenario())


# ── Pacing: the reserve for single calls ────────────────────────────────────────────────────────────


PACE = 0.97 * 60
"""Seconds over which all places of the reserve are taken evenly."""


def reserved(open_gate) -> Gate:
    return open_gate(concurrent_limit=10_000, requests_per_minute=100, interactive_reserve=0.5)


@given(moment=st.floats(0, 660))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_the_first_single_call_beside_a_batch_of_twelve_windows_waits_for_one_of_25_places(open_gate, moment):
    async def scenario():
        gate = reserved(open_gate)
        work = asyncio.create_task(generate_many(gate, 1200, batch="big"))
        await asyncio.sleep(moment)
        waited = await generate(gate, [], "bob")
        work.cancel()
        return waited

    assert run(scenario()) <= PACE / 25 + 0.03 * 60  # the pace leaves 1.8 s of each minute


def test_a_single_call_in_a_spent_window_waits_at_most_the_pace_and_one_answer(open_gate):
    async def scenario():
        gate = reserved(open_gate)
        work = asyncio.create_task(generate_many(gate, 1200, batch="big", answer=0.5))
        longest = 0.0
        for _ in range(80):
            longest = max(longest, await generate(gate, [], "bob", answer=0.5))
            await asyncio.sleep(5.25)
        work.cancel()
        return longest

    assert run(scenario()) <= 60 / 25 + 0.5


def test_a_batch_that_fits_the_free_places_is_not_paced(open_gate):
    async def scenario():
        return Counter(await generate_many(reserved(open_gate), 100, batch="fits"))

    assert {0.0: 100} == run(scenario())


def test_a_batch_that_is_alone_uses_every_place_of_ten_windows(open_gate):
    async def scenario():
        return Counter(await generate_many(reserved(open_gate), 1000, batch="alone"))

    assert {60.0 * n: 100 for n in range(10)} == run(scenario())


def test_a_batch_of_more_than_ten_windows_takes_25_places_evenly_over_the_minute(open_gate):
    async def scenario():
        admissions = Counter(await generate_many(reserved(open_gate), 1001, batch="big"))
        return {round(at, 3): count for at, count in admissions.items() if at < 59}

    assert {0.0: 76} | {round(PACE / 25 * n, 3): 1 for n in range(1, 25)} == run(scenario())


def test_a_batch_of_more_than_ten_windows_wastes_no_place_and_ends_at_most_a_window_later(open_gate):
    """Without the pace it ends at 660 s."""

    async def scenario():
        return await generate_many(reserved(open_gate), 1200, batch="big")

    admissions = run(scenario())
    assert dict.fromkeys(range(12), 100) == Counter(int(at // 60) for at in admissions)
    assert pytest.approx(660.0 + PACE / 25 * 24) == max(admissions)


def test_leases_that_sent_nothing_leave_the_reserve_unchanged(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=100, requests_per_minute=8, interactive_reserve=0.25)
        for lease in [await gate.acquire("ann") for _ in range(8)]:
            lease.release()
        await asyncio.sleep(60)
        admissions = [at - 60 for at in await generate_many(gate, 16, batch="big")]
        return [at for at in admissions if at < 59]

    assert pytest.approx([PACE / 8 * n for n in range(8)]) == run(scenario())


def test_single_calls_alone_are_never_paced(open_gate):
    async def scenario():
        return Counter(await generate_many(reserved(open_gate), 200))

    assert {0.0: 100, 60.0: 100} == run(scenario())


def test_raising_the_window_limit_admits_a_paced_batch_at_once(open_gate):
    async def scenario():
        gate = reserved(open_gate)
        work = asyncio.create_task(generate_many(gate, 2100, batch="big"))
        await asyncio.sleep(1)
        gate.configure(requests_per_minute=200)
        await asyncio.sleep(0.5)
        work.cancel()
        return figures(gate)[1]

    assert 200 - 25 + 1 == run(scenario())


# ── Closing ─────────────────────────────────────────────────────────────────────────────────────────


class Closing(Exception):
    """The exception that the tests close the gate with."""


def test_close_ends_current_and_later_waits_with_its_exception(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=1, requests_per_minute=10)
        lease = await gate.acquire("ann")
        waiters = [asyncio.create_task(gate.acquire(name)) for name in ("ann", "bob")]
        await tick()
        gate.close(lambda: Closing("now"))
        for waiter in waiters:
            with pytest.raises(Closing, match="now"):
                await waiter
        with pytest.raises(Closing, match="now"):
            await gate.acquire("cid")
        assert (1, 1, 0) == figures(gate)
        lease.sent()
        lease.answered()
        lease.release()
        await tick()
        return figures(gate)

    assert (0, 1, 0) == run(scenario())


# ── Statistics ──────────────────────────────────────────────────────────────────────────────────────


def test_statistics_are_right_at_each_instant(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=2, requests_per_minute=5)
        for_each = asyncio.create_task(generate_many(gate, 3, answer=1.0, more=9.0))
        gate.pause("bob", 8.0)
        seen = {}
        for at in (0.5, 7.0, 10.5, 20.5, 60.5, 61.5, 71.5):
            await asyncio.sleep(at - now())
            seen[at] = gate.statistics()
        await for_each
        return seen

    def stats(in_flight, waiting, rate, paused=0.0):
        return GateStats(
            concurrent_limit=2,
            current_concurrent=in_flight,
            waiting=waiting,
            requests_per_minute_limit=5,
            current_rate_per_minute=rate,
            paused_seconds=paused,
        )

    expected = {
        0.5: stats(2, 1, 2, 7.5),
        7.0: stats(2, 1, 2, 1.0),
        10.5: stats(1, 0, 3),
        20.5: stats(0, 0, 3),
        60.5: stats(0, 0, 3),
        61.5: stats(0, 0, 1),
        71.5: stats(0, 0, 0),
    }
    assert expected == run(scenario())
    assert [0, 0, 1, 2, 2, 2, 2] == [seen.available_slots for seen in expected.values()]


def test_an_ended_pause_counts_zero_seconds(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=2, requests_per_minute=5)
        gate.pause("ann", 10.0)
        await asyncio.sleep(25)
        return gate.statistics().paused_seconds

    assert 0.0 == run(scenario())


def test_seconds_per_release_follow_the_window_while_slots_turn_over_faster(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=100, requests_per_minute=600)
        before = gate.seconds_per_release()
        await generate_many(gate, 50, more=4.0)
        return before, gate.seconds_per_release()

    assert (0.1, 0.1) == run(scenario())


def test_seconds_per_release_follow_the_slots_while_the_window_is_wide_and_idling_changes_nothing(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=5, requests_per_minute=600)
        await generate_many(gate, 50, more=4.0)
        with await gate.acquire("gave up unsent"):
            busy = gate.seconds_per_release()
        await asyncio.sleep(3600)
        idle = gate.seconds_per_release()
        gate.configure(concurrent_limit=2)
        return busy, idle, gate.seconds_per_release()

    assert (0.8, 0.8, 2.0) == run(scenario())


def test_a_request_that_was_not_sent_gives_its_place_back(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=1, requests_per_minute=1)
        with await gate.acquire("a") as lease:
            lease.sent()
            lease.not_sent()
        with await gate.acquire("a"):
            return asyncio.get_running_loop().time()

    assert 0.0 == run(scenario())


def test_raising_the_limit_ends_the_pace_of_the_old_one(open_gate):
    async def scenario():
        loop = asyncio.get_running_loop()
        gate = open_gate(concurrent_limit=1000, requests_per_minute=20, interactive_reserve=0.05)
        admitted = []

        async def one():
            with await gate.acquire("a", batch="b") as lease:
                lease.sent()
                admitted.append(loop.time())

        batch = [asyncio.create_task(one()) for _ in range(400)]
        await asyncio.sleep(5)
        gate.configure(requests_per_minute=200)
        await asyncio.sleep(55)
        for task in batch:
            task.cancel()
        return len([time for time in admitted if time < 60])

    # From 5 s on, 25 places are taken over a minute, and the last of them would come at 61 s.
    assert 199 == run(scenario())


def test_a_window_that_starts_half_spent_has_half_its_places_for_a_minute_and_then_all(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=100, requests_per_minute=7)
        gate.start_half_spent()
        return Counter(await generate_many(gate, 13))

    # Half of 7 is 3. At 60 s the limit is 7 again, and the places of the first minute are free.
    assert {0.0: 3, 60.0: 7, 120.0: 3} == run(scenario())


def test_a_window_of_one_that_starts_half_spent_admits_one(open_gate):
    async def scenario():
        gate = open_gate(concurrent_limit=100, requests_per_minute=1)
        gate.start_half_spent()
        return await generate_many(gate, 2)

    assert [0.0, 60.0] == run(scenario())


@given(limit=st.integers(2, 12), restart=st.integers(0, 130), answer=st.integers(0, 5))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_minute_across_a_restart_has_at_most_one_and_a_half_times_the_limit(
    open_gate, limit, restart, answer
):
    """Both processes send as much as their gates admit."""

    async def scenario():
        admissions: list[float] = []
        for begins_half_spent, seconds in ((False, restart), (True, 190)):
            gate = open_gate(concurrent_limit=100, requests_per_minute=limit)
            if begins_half_spent:
                gate.start_half_spent()
            tasks = [asyncio.create_task(generate(gate, admissions, answer=answer)) for _ in range(5 * limit)]
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return max(sum(start <= each < start + 60 for each in admissions) for start in admissions)

    assert run(scenario()) <= limit + limit // 2
