"""The contract of what a ledger knows about calls to text models, on every implementation."""

import pytest

from errors import OutcomeUnknown
from generations.attempts import failure
from ledger import PastCall
from ledger.records import AttemptRecord
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
