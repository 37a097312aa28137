"""The calls of earlier processes count in the limits, as the ledger knows them, and not in the window of creations."""

import asyncio
import time

import pytest

from admission.metered.demand import Demand
from admission.metered.limits import MeteredLimits, ModelLimits
from catalog.texts.registry import text_registry
from errors import OutcomeUnknown
from generations.attempts import failure
from generations.past import PastCalls, answered_ago
from ledger.memory import MemoryLedger
from ledger.records import AttemptRecord, GenerationRecord
from metering.gate import MeteredGate
from tests.support.records import generation
from tests.support.virtual_time import run

LITE = "gemini-3.5-flash-lite"
NOW = 1_790_000_000.0
LOST = failure(OutcomeUnknown())


def call(generation_id="gen_1", *, sent=10.0, answered=None, ended=None, caller="admin", **facts):
    """A generation with one call. The times are seconds before now."""
    ended_at = None if ended is None else NOW - ended
    usual = {
        "generation_id": generation_id,
        "number": 1,
        "model": LITE,
        "prompt_tokens": 40,
        "cost_usd": 0.25,
        "submitted_at": NOW - sent,
        "answered_at": None if answered is None else NOW - answered,
        "open": ended is None,
    }
    attempt = AttemptRecord(**usual | facts)
    return generation(
        generation_id, caller_id=caller, ended_at=ended_at, reserved_usd=0.75, attempts=(attempt,), calls=1
    )


def waits(
    *records, day_began=3600.0, rpm=300, tpm=1_000_000, rpd=None, usd=10.0, model=LITE, tokens=1, micro_usd=1
):
    """Seconds that a call waits at a new gate on which the calls of these generations are counted."""
    ledger = MemoryLedger()
    ledger.rows[GenerationRecord] = {(each.id,): each for each in records}
    began = NOW - day_began
    past = PastCalls.read(ledger, now=NOW, day_began=began, simulated=True)

    async def main():
        limits = MeteredLimits({"*": ModelLimits(rpm=rpm, tpm=tpm, rpd=rpd)}, round(usd * 1_000_000))
        gate = MeteredGate(concurrent_limit=15, limits=limits)
        past.count(gate, now=NOW, day_began=began, texts=text_registry(lambda _: 1))
        clock = asyncio.get_running_loop().time
        assert 0 == gate.slots_held
        with await gate.acquire(
            Demand(caller="other", account="admin", model=model, tokens=tokens, micro_usd=micro_usd)
        ):
            return clock()

    return round(run(main()), 3)


def test_an_answered_call_counts_for_a_minute_and_its_money_for_ten():
    past = call(sent=30.0, answered=20.0, ended=15.0)

    assert 40.0 == waits(past, rpm=1)
    assert 40.0 == waits(past, tpm=100, tokens=61)
    assert 0.0 == waits(past, tpm=100, tokens=60)
    assert 585.0 == waits(past, usd=1.0, micro_usd=750_001)
    assert 0.0 == waits(past, usd=1.0, micro_usd=750_000)


def test_calls_under_an_old_name_count_in_the_lane_of_the_model_that_answers():
    assert 40.0 == waits(call(answered=20.0, ended=15.0, model="gemini-2.5-flash"), rpm=1)
    assert 0.0 == waits(call(answered=20.0, ended=15.0, model="gemini-3.8-flash"), rpm=1)


@pytest.mark.parametrize("caller", ["key_1", "open"])
def test_all_callers_on_the_servers_key_share_its_limits(caller):
    assert 40.0 == waits(call(answered=20.0, ended=15.0, caller=caller), rpm=1)


def test_the_account_of_another_user_is_another_one():
    assert 0.0 == waits(call(answered=20.0, ended=15.0, caller="user_1"), rpm=1)


@pytest.mark.parametrize("lost", [call(), call(ended=5.0, error=LOST)])
def test_a_lost_call_counts_until_it_can_no_longer_arrive(lost):
    assert 660.0 == waits(lost, rpm=1)
    assert 1200.0 == waits(lost, usd=1.0, micro_usd=750_001)


def test_a_lost_call_before_an_answered_one_counts_as_ended_with_that():
    lost, later = call(sent=50.0), call("gen_2", sent=40.0, answered=35.0, ended=1.0)

    assert 25.0 == waits(lost, later, rpm=1)
    assert 0.0 == waits(lost, later, rpm=3)


def test_a_call_that_was_refused_counts_without_money():
    refused = call(sent=30.0, answered=20.0, ended=15.0, error=failure(OutcomeUnknown()), cost_usd=0.0)

    assert 40.0 == waits(refused, rpm=1)
    assert 0.0 == waits(refused, usd=1.0, micro_usd=1_000_000)


def test_an_open_call_counts_what_its_generation_has_reserved():
    assert 0.0 == waits(call(answered=1.0), usd=1.0, micro_usd=250_000)
    assert 600.0 == waits(call(answered=1.0), usd=1.0, micro_usd=250_001)


def test_calls_of_today_count_until_midnight_and_lost_ones_once():
    today = [call("gen_1", answered=1.0, ended=1.0), call("gen_2", ended=5.0, error=LOST)]
    yesterday = call("gen_3", sent=9000.0, answered=8999.0, ended=8990.0)

    assert 0.0 == waits(*today, yesterday, rpd=3)
    assert 0.0 < waits(*today, yesterday, rpd=2)


def test_a_date_in_the_future_counts_as_now():
    assert 60.0 == waits(call(answered=-500.0, ended=-600.0), rpm=1)


def test_a_call_takes_no_place_of_creations():
    ledger = MemoryLedger()
    answered = call(answered=20.0, ended=15.0, submitted_at=time.time(), answered_at=time.time())
    ledger.rows[GenerationRecord] = {(each.id,): each for each in (answered, call("gen_2"))}

    assert [] == [each for ago in answered_ago(ledger, NOW, ()).values() for each in ago]


def test_a_training_takes_no_place_of_creations():
    sent = {"prompt_tokens": None, "sent": 25.0, "answered": 20.0, "ended": 15.0}
    works = call("gen_1", **sent), call("trn_1", **sent), call("trn_2", **sent, caller="key_1")
    ledger = MemoryLedger()
    ledger.rows[GenerationRecord] = {(each.id,): each for each in works}

    assert {None: [20.0]} == answered_ago(ledger, NOW, ())
