"""The outcome of each answer to a call, and its error."""

import pytest

from errors import GenerationFailed
from errors.calls import OutputTruncated
from errors.content import ContentRefused
from providers.call_outcomes import failure_of, outcome_of
from providers.calls import CallAnswer, Usage

USAGE = Usage(20, 0, 200, 7992)


def answer(text, end, finish_reason=None, block_reason=None):
    return CallAnswer(text, finish_reason, None, None, USAGE, end, block_reason)


@pytest.mark.parametrize(
    ("answered", "kind", "reason", "error"),
    [
        (answer("Hi", "complete", "STOP"), "ok", "STOP", None),
        (answer("", "complete", "STOP"), "empty", "STOP", GenerationFailed),
        (answer(" \n", "complete", "STOP"), "empty", "STOP", GenerationFailed),
        (answer("Hi", "length", "MAX_TOKENS"), "truncated", "MAX_TOKENS", OutputTruncated),
        (answer("", "length", "MAX_TOKENS"), "truncated", "MAX_TOKENS", OutputTruncated),
        (answer("Hi", "refused", "SAFETY"), "refused", "SAFETY", ContentRefused),
        (answer("", "refused", None, "JAILBREAK"), "refused", "JAILBREAK", ContentRefused),
        (answer("", "failed", "NO_IMAGE"), "failed", "NO_IMAGE", GenerationFailed),
        (answer("Hi", "failed", "A_REASON_OF_2027"), "failed", "A_REASON_OF_2027", GenerationFailed),
        (answer("", "failed"), "failed", None, GenerationFailed),
    ],
)
def test_only_a_completed_text_is_a_success(answered, kind, reason, error):
    outcome, failure = outcome_of(answered), failure_of(answered, takes_truncated=False)

    assert (kind, reason, error) == (outcome.kind, outcome.reason, failure and type(failure))
    assert error in {None, OutputTruncated} or reason in {None, "STOP"} or reason in failure.detail


def test_a_truncated_text_is_a_success_where_it_is_taken_unless_it_is_empty():
    assert failure_of(answer("Hi", "length"), takes_truncated=True) is None
    empty = failure_of(answer("", "length"), takes_truncated=True)

    assert isinstance(empty, OutputTruncated)
    assert "thinking took 7,992 tokens" in empty.detail
