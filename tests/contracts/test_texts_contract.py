"""The contract of a ledger about calls to text models, on every implementation."""

import asyncio
from dataclasses import replace

import pytest

from contract.tasks import GONE, TRUNCATED
from errors import OutcomeUnknown
from generations.attempts import failure
from ledger import PastCall
from ledger.blanking import BlankTexts
from ledger.records import AttemptRecord, Delivery, Failure
from tests.contracts.test_claims_contract import in_memory, on_postgres, on_sqlite
from tests.support.ledgers import write
from tests.support.records import generation


@pytest.fixture(params=[in_memory, on_sqlite, on_postgres])
def shared(request):
    with request.param() as opened:
        yield opened


def call(generation_id, *, number=1, **facts):
    usual = {"model": "lite", "prompt_tokens": 40, "cost_usd": 0.25, "submitted_at": 90.0}
    return AttemptRecord(generation_id=generation_id, number=number, **usual | facts)


# ── Calls that still count


def test_past_calls_are_those_that_ended_since_or_have_not_ended(shared):
    write(
        shared.one,
        generation("old", ended_at=49.0, calls=1, attempts=(call("old", submitted_at=40.0),)),
        generation("ended", ended_at=60.0, calls=1, attempts=(call("ended", answered_at=95.0),)),
        generation(
            "open",
            caller_id="key_1",
            reserved_usd=0.75,
            attempts=(
                call("open", error=failure(OutcomeUnknown())),
                call("open", number=2, open=True, cost_usd=0.0),
            ),
        ),
        generation("queued", attempts=(call("queued", submitted_at=None, passed_over=True),)),
        generation(
            "picture",
            attempts=(AttemptRecord(generation_id="picture", number=1, model="m", submitted_at=90.0),),
        ),
        generation("real", simulated=False, attempts=(call("real"),)),
    )
    usual = {"caller_id": "key_1", "model": "lite", "submitted_at": 90.0, "answered_at": None, "tokens": 40}

    found = shared.queries.past_calls(50.0, simulated=True)

    assert [
        PastCall(
            **usual | {"caller_id": "admin", "answered_at": 95.0}, ended_at=60.0, usd=0.25, is_lost=False
        ),
        PastCall(**usual, ended_at=None, usd=0.25, is_lost=True),
        PastCall(**usual, ended_at=None, usd=0.75, is_lost=True),
    ] == sorted(found, key=lambda each: (each.caller_id, each.usd))


def test_calls_of_a_day_are_counted_by_caller_and_model(shared):
    write(
        shared.one,
        generation(
            "one", ended_at=95.0, calls=2, attempts=(call("one"), call("one", number=2, submitted_at=92.0))
        ),
        generation("other", ended_at=95.0, calls=1, attempts=(call("other", model="flash"),)),
        generation("before", ended_at=95.0, calls=1, attempts=(call("before", submitted_at=79.0),)),
        generation("runs", caller_id="user_1", attempts=(call("runs", open=True),)),
    )

    expected = {("admin", "lite"): 2, ("admin", "flash"): 1, ("user_1", "lite"): 1}
    assert expected == shared.queries.calls_since(80.0, simulated=True)
    assert {} == shared.queries.calls_since(80.0, simulated=False)


# ── Texts that are no longer kept

INVALID = Failure(
    "output_invalid", "x: must fit const 7", False, ({"field": "x", "reason": "must fit const 7"},)
)


def texts(generation_id, **facts):
    usual = {
        "door": "chat",
        "state": "succeeded",
        "prompt": "Tell it",
        "outputs": ("Once",),
        "ended_at": 60.0,
        "calls": 1,
        "cost_usd": 0.25,
        "metadata": '{"a": "b"}',
    }
    return generation(generation_id, **usual | facts)


def kept(shared, **more):
    return set(shared.queries.kept_texts(["lite"], **{"since": 0.0, "before": 100.0, "most": 9} | more))


def test_texts_are_kept_of_calls_and_of_work_for_their_models(shared):
    write(
        shared.one,
        texts("one"),
        texts("late", ended_at=100.0),
        texts("without_call", door=None, model="lite", calls=0, state="canceled"),
        texts("other_door", door=None),
        texts("picture", door=None, model="flux", calls=0),
        texts("pending"),
        texts("in_batch", batch_id="pending"),
        texts("runs", ended_at=None, state="running"),
        Delivery("pending", "https://a.test", 60.0),
    )

    assert {"one", "without_call", "other_door"} == kept(shared)
    assert 1 == len(kept(shared, most=1))
    assert set() == kept(shared, since=61.0)


def test_blanked_generations_have_their_facts_and_no_texts(shared):
    failed = texts(
        "failed",
        state="failed",
        outputs=(),
        text="not it",
        error=INVALID,
        attempts=(call("failed", error=INVALID),),
    )
    write(
        shared.one,
        texts("one", warnings=("scenes[0]: Ann is missing",)),
        texts("cut", warnings=(TRUNCATED, "other")),
        failed,
        texts("two"),
    )

    asyncio.run(blank(shared, ("one", "cut", "failed")))

    gone = {"prompt": "", "outputs": (), "text": None, "request": None}
    one, cut, after, two = map(shared.queries.generation, ("one", "cut", "failed", "two"))
    assert replace(texts("one"), **gone, warnings=(GONE,)) == replace(one, seq=None, process=None)
    assert (TRUNCATED, GONE) == cut.warnings
    blanked = Failure("output_invalid", "", False)
    assert (blanked, blanked, 0.25, 1) == (
        after.error,
        after.attempts[0].error,
        after.cost_usd,
        after.calls,
    )
    assert "Tell it" == two.prompt
    assert {"two"} == kept(shared)


async def blank(shared, ids):
    await shared.one.claim(BlankTexts(ids, of_attempts=True))
    await shared.one.claim(BlankTexts(ids))


def test_a_generation_that_has_not_ended_keeps_its_texts(shared):
    write(shared.one, texts("runs", ended_at=None, state="running"))

    asyncio.run(blank(shared, ("runs",)))

    assert "Tell it" == shared.queries.generation("runs").prompt
