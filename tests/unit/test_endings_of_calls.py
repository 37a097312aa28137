"""A call of an earlier process that ends without its owner costs what was reserved, and has an unknown outcome."""

import pytest

from generations.endings import cancelled, expired
from ledger.records import AttemptRecord
from tests.support.records import generation


def interrupted(state="running", *, cancelled=False, is_open=True):
    call = AttemptRecord(
        generation_id="gen_1", number=1, model="lite", prompt_tokens=40, submitted_at=5.0, open=is_open
    )
    return generation("gen_1", state=state, cancelled=cancelled, reserved_usd=0.75, attempts=(call,))


@pytest.mark.parametrize("state", ["submitting", "running"])
def test_a_call_whose_owner_does_not_return_has_an_unknown_outcome(state):
    ended = expired(interrupted(state))

    assert ("failed", "outcome_unknown", 0.75) == (ended.state, ended.error.code, ended.cost_usd)
    [call] = ended.attempts
    assert (False, "outcome_unknown", 0.75) == (call.open, call.error.code, call.cost_usd)
    assert (1, 40) == (ended.calls, ended.prompt_tokens)


def test_the_error_of_a_cancelled_call_warns_that_it_may_be_billed():
    ended = cancelled(interrupted())

    assert ("canceled", 0.75, False) == (ended.state, ended.cost_usd, ended.attempts[0].open)
    assert "it may be billed" in ended.error.detail
    assert "rediction" not in ended.error.detail


def test_a_queued_call_was_not_sent():
    waiting = generation("gen_1", reserved_usd=0.75)

    assert ("interrupted", 0.0, 0) == (
        expired(waiting).error.code,
        expired(waiting).cost_usd,
        expired(waiting).calls,
    )
