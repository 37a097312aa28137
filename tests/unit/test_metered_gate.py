"""The asyncio shell of metered admission: waits that end in any tick leave no slot and no place taken."""

import asyncio
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from admission.metered.demand import TooLarge
from admission.metered.limits import MeteredLimits, ModelLimits
from concurrency import Gate
from metering.days import Days
from metering.gate import MeteredGate
from tests.support.fake_google import HELLO, SERVER, FakeGoogle, Script
from tests.support.metered import need
from tests.support.virtual_time import in_virtual_time, now, run, tick


def a_gate(slots=10, money=10**9, **limits):
    return MeteredGate(concurrent_limit=slots, limits=MeteredLimits({"*": ModelLimits(**limits)}, money))


@pytest.mark.parametrize("ticks", range(6))
def test_a_waiter_cancelled_in_any_tick_of_its_admission_costs_nothing(ticks):
    async def scenario():
        gate = a_gate(slots=1, rpm=1, tpm=10, rpd=1, money=10)
        waiter = asyncio.create_task(gate.acquire(need(tokens=10, micro_usd=10)))
        await tick(ticks)
        if waiter.cancel():
            await tick()
            assert waiter.cancelled()
        else:
            waiter.result().release()
        with await gate.acquire(need(caller="bob", tokens=10, micro_usd=10)) as lease:
            return now(), gate.slots_held, lease.granted.done()

    assert (0.0, 1, True) == run(scenario())


@in_virtual_time
async def test_the_next_call_waits_until_a_minute_after_the_answer():
    gate = a_gate(rpm=1)
    with await gate.acquire(need()) as lease:
        lease.sent()
        await asyncio.sleep(2.0)
        lease.answered()
        await asyncio.sleep(5.0)
    with await gate.acquire(need()):
        assert 62.0 == now()


@in_virtual_time
async def test_measured_tokens_and_settled_costs_free_the_rest_for_the_next_in_the_same_tick():
    gate = a_gate(tpm=100, money=100)
    lease = await gate.acquire(need(tokens=90, micro_usd=90))
    lease.sent()
    waiter = gate.request(need(tokens=90, micro_usd=90))
    lease.answered()
    lease.measured(10)
    await tick()
    assert not waiter.granted.done()

    lease.settled(10)
    lease.release()
    await waiter.granted
    assert (0.0, 1) == (now(), gate.slots_held)


@in_virtual_time
async def test_a_block_that_sends_nothing_gives_everything_back():
    gate = a_gate(slots=1, rpm=1, tpm=10, rpd=1, money=10)
    for _ in range(3):
        with await gate.acquire(need(tokens=10, micro_usd=10)) as lease:
            lease.sent()
            lease.not_sent()
    assert (0.0, 0) == (now(), gate.slots_held)


@in_virtual_time
async def test_a_lease_is_for_one_request():
    gate = a_gate()
    with await gate.acquire(need()) as lease:
        lease.sent()
        lease.answered()
        lease.answered()
        with pytest.raises(RuntimeError, match="a lease is for one request; this one is answered"):
            lease.sent()


@in_virtual_time
async def test_a_lost_call_frees_its_slot_but_not_its_place():
    gate = a_gate(slots=1, rpm=2)
    lost = await gate.acquire(need())
    lost.sent()
    await asyncio.sleep(1.0)
    lost.lost()
    lost.release()
    lost.settled(0)
    with await gate.acquire(need()) as later:
        later.sent()
        await asyncio.sleep(1.0)
        later.answered()
    with await gate.acquire(need()):
        assert (62.0, 1) == (now(), gate.slots_held)


@in_virtual_time
async def test_a_lost_call_counts_for_60_seconds_after_a_count_of_tokens_was_answered():
    gate = a_gate(rpm=1)
    google = FakeGoogle([Script([b'{"totalTokens": 1}'], head_after=2.0)])
    client = google.client(on_answer=gate.upstream_answered)
    with await gate.acquire(need(account=SERVER.account)) as lost:
        lost.sent()
        await asyncio.sleep(1.0)
        lost.lost()
    await client.count_tokens(SERVER, HELLO)

    with await gate.acquire(need(account=SERVER.account)):
        assert 63.0 == now()


@in_virtual_time
async def test_a_shut_model_is_opened_by_one_probe():
    gate = a_gate()
    gate.shut("ours", "lite", 30.0, "minute")
    waiters = [gate.request(need()) for _ in range(3)]
    probe = waiters[0]
    await probe.granted
    probe.sent()
    await asyncio.sleep(5.0)
    assert (35.0, False) == (now(), waiters[1].granted.done())

    probe.answered()
    probe.proceed()
    await waiters[2].granted
    assert 35.0 == now()


@in_virtual_time
async def test_the_waits_of_a_dismissed_batch_raise_the_reason_and_others_go_on():
    gate = a_gate(slots=1)
    held = await gate.acquire(need())
    items = [asyncio.create_task(gate.acquire(need(batch="one"))) for _ in range(3)]
    other = asyncio.create_task(gate.acquire(need()))
    await tick()

    gate.dismiss("ann", "one", lambda: KeyError("gone"))
    await tick()
    assert [KeyError] * 3 == [type(each.exception()) for each in items]
    held.release()
    assert (await other).granted.done()


@in_virtual_time
async def test_a_closed_gate_ends_every_wait_and_running_calls_go_on():
    gate = a_gate(slots=1)
    held = await gate.acquire(need())
    waiter = asyncio.create_task(gate.acquire(need()))
    await tick()

    gate.close(lambda: RuntimeError("drains"))
    with pytest.raises(RuntimeError, match="drains"):
        await waiter
    with pytest.raises(RuntimeError, match="drains"):
        gate.request(need())
    held.sent()
    held.answered()
    held.release()
    assert 0 == gate.slots_held


@in_virtual_time
async def test_a_call_that_a_lowered_limit_has_no_room_for_raises_it():
    gate = a_gate(slots=1, tpm=100)
    with await gate.acquire(need()):
        waiter = asyncio.create_task(gate.acquire(need(tokens=80)))
        await tick()
        gate.lower("ours", "lite", "tpm", 50)
        with pytest.raises(TooLarge, match="needs 80 of tpm, whose whole window has 50"):
            await waiter
        with pytest.raises(TooLarge):
            gate.check(need(tokens=80))


@in_virtual_time
async def test_an_adopted_call_holds_its_slot_and_place():
    gate = a_gate(slots=1, rpm=1)
    adopted = gate.adopt(need(), sent_ago=3.0)
    waiter = gate.request(need())
    await tick()
    assert (False, 1, 1) == (waiter.granted.done(), gate.slots_held, gate.in_flight("ann"))

    adopted.answered()
    adopted.release()
    await waiter.granted
    assert 60.0 == now()


# ── Semaphores in common with the gate of creations


def two_gates():
    creations = Gate(concurrent_limit=10, requests_per_minute=600)
    calls = MeteredGate(concurrent_limit=10, limits=MeteredLimits(), semaphores=creations.shared_semaphores)
    calls.share_semaphores_with(creations)
    creations.set_semaphore("gpu", 1)
    return creations, calls


@in_virtual_time
async def test_a_permit_that_one_gate_frees_is_taken_in_the_other():
    creations, calls = two_gates()
    prediction = await creations.acquire("ann", semaphore="gpu")
    call = calls.request(need(semaphore="gpu"))
    await tick()
    assert not call.granted.done()

    prediction.release()
    await call.granted
    waiter = creations.request("ann", semaphore="gpu")
    await tick()
    assert not waiter.granted.done()

    call.release()
    await waiter.granted
    assert 0.0 == now()


@in_virtual_time
async def test_two_gates_take_turns_at_a_permit():
    creations, calls = two_gates()
    order = []

    async def use(name, acquire):
        for _ in range(5):
            lease = await acquire()
            order.append(name)
            await asyncio.sleep(1.0)
            lease.release()

    await asyncio.gather(
        *(use("call", lambda: calls.acquire(need(semaphore="gpu"))) for _ in range(2)),
        *(use("prediction", lambda: creations.acquire("ann", semaphore="gpu")) for _ in range(2)),
    )

    assert 10 == order.count("call")
    assert {2} == {len(set(order[at : at + 2])) for at in range(2, 18, 2)}


@in_virtual_time
async def test_a_permit_that_another_service_returns_wakes_both_gates():
    creations, calls = two_gates()
    assert None is creations.lease_permit("gpu", "theirs", 1000.0)
    call = calls.request(need(semaphore="gpu"))
    await tick()

    creations.return_permit("gpu", "theirs")
    await call.granted
    assert 0.0 == now()


# ── Days

PACIFIC = ZoneInfo("America/Los_Angeles")


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-11-01", 25), ("2026-11-02", 24), ("2027-03-14", 23), ("2027-03-15", 24)]
)
def test_a_day_ends_at_midnight_of_its_zone_also_when_the_clocks_change(day, hours):
    began = datetime.fromisoformat(day).replace(tzinfo=PACIFIC).timestamp()
    days = Days(PACIFIC, clock=lambda: 100.0, wall=lambda: began)

    assert 100.0 + hours * 3600 == days.end(100.0)
    assert 100.0 + hours * 3600 == days.end(100.0 + hours * 3600 - 1)
    assert days.end(100.0 + hours * 3600) > 100.0 + hours * 3600


def test_the_end_of_a_day_does_not_move_with_the_wall_clock(clock):
    moments = iter([1000.0, 2000.0, 90_000.0])
    days = Days(UTC, clock, wall=lambda: next(moments))
    first = days.end(0.0)
    clock.now = 50.0

    assert first == days.end(50.0)
    assert 85_400.0 == first


@in_virtual_time
async def test_calls_beyond_those_of_the_day_wait_for_the_next():
    gate = MeteredGate(concurrent_limit=5, limits=MeteredLimits({"*": ModelLimits(rpd=1)}), zone=PACIFIC)
    with await gate.acquire(need()) as lease:
        lease.sent()
        lease.answered()
    ends = gate.snapshot(need().account).day_ends
    with await gate.acquire(need()):
        assert ends == now()
