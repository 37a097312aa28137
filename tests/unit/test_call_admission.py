"""A limit that stays closed for long refuses all calls that it would refuse, and one of a minute lets them wait."""

import asyncio

import pytest

from admission.metered.demand import Demand
from admission.metered.limits import MeteredLimits, ModelLimits
from errors import InsufficientCredit
from errors.calls import QuotaExhausted
from generations.call_admission import CallAdmission
from metering.gate import MeteredGate
from providers import TryAgain
from providers.calls import LimitHit
from tests.support.virtual_time import run

DAY = QuotaExhausted("The day is over.", resets_at="2026-11-28T08:00:00.000Z")


def demand(model="lite", account="ours"):
    return Demand(caller="her", account=account, model=model, tokens=1, micro_usd=1)


def day(seconds=3600.0):
    return LimitHit(DAY, scope="model", kind="day", wait=seconds, limit="rpd", lowered_to=7)


def on_a_gate(test, slots=1):
    async def main():
        limits = MeteredLimits({"*": ModelLimits(rpm=300, tpm=1000)}, 1000)
        gate = MeteredGate(concurrent_limit=slots, limits=limits)
        return await test(CallAdmission(gate), asyncio.get_running_loop().time)

    return run(main())


def test_a_day_that_is_over_refuses_calls_that_wait_and_those_that_come():
    async def story(admission, clock):
        with await admission.acquire(demand()) as lease:
            waiting = asyncio.gather(*(admission.acquire(demand()) for _ in range(3)), return_exceptions=True)
            await asyncio.sleep(1)
            lease.sent()
            lease.answered()
            error = admission.limited("ours", "lite", day())
        with pytest.raises(QuotaExhausted) as new:
            await admission.acquire(demand())
        return [error, new.value, *await waiting], clock(), admission.gate.slots_held

    errors, now, held = on_a_gate(story)

    assert [(DAY.detail, DAY.resets_at, True)] * 5 == [
        (each.detail, each.resets_at, each.falls_back) for each in errors
    ]
    assert len(errors) == len({id(each) for each in errors})
    assert (1.0, 0) == (now, held)


def test_other_models_and_accounts_go_on_and_the_model_does_after_the_day():
    async def story(admission, clock):
        admission.limited("ours", "lite", day(30.0))
        for other in (demand("flash"), demand(account="hers")):
            with await admission.acquire(other):
                pass
        before = clock()
        await asyncio.sleep(30)
        with await admission.acquire(demand()) as probe:
            probe.sent()
            probe.answered()
            probe.proceed()
        return before, clock()

    assert (0.0, 30.0) == on_a_gate(story)


def test_an_account_without_money_refuses_all_its_models():
    async def story(admission, _clock):
        hit = LimitHit(InsufficientCredit("No credit."), scope="account", kind="money")
        admission.limited("ours", "lite", hit)
        with pytest.raises(InsufficientCredit):
            await admission.acquire(demand("flash"))

    on_a_gate(story)


def test_calls_wait_for_the_end_of_a_minute():
    async def story(admission, clock):
        error = admission.limited("ours", "lite", LimitHit(DAY, scope="model", kind="minute", wait=7.0))
        assert isinstance(error, TryAgain)
        with await admission.acquire(demand()):
            return clock()

    assert 7.0 == on_a_gate(story)


def test_a_wait_that_is_cancelled_leaves_nothing_behind():
    async def story(admission, _clock):
        with await admission.acquire(demand()):
            waiting = asyncio.create_task(admission.acquire(demand()))
            await asyncio.sleep(1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        return admission._waits  # noqa: SLF001

    assert {} == on_a_gate(story)


def test_a_lowered_limit_that_the_gate_does_not_have_is_left_alone():
    async def story(admission, _clock):
        hit = LimitHit(DAY, scope="model", kind="day", wait=9.0, limit="tpd", lowered_to=7)
        return admission.limited("ours", "lite", hit)

    assert isinstance(on_a_gate(story), QuotaExhausted)
