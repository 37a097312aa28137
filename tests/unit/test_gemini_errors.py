"""The error of the service for each of Google's. The bodies are those of public issues and code, 2025-10 to 2026-11."""

import json
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from auth import Caller, credentials
from errors import InsufficientCredit, InvalidRequest, ServerOutOfCredit, UpstreamError, UpstreamRateLimited
from errors.calls import (
    GeminiKeyRejected,
    ModelUnavailable,
    PromptTooLarge,
    QuotaExhausted,
    SchemaRefused,
    ServerGeminiKeyRejected,
)
from providers import TryAgain
from providers.calls import Call, CallLost, LimitHit
from providers.gemini.days import day_end
from providers.gemini.errors import ended_by, judged
from providers.gemini.refusals import Refusal
from tests.support.fake_google import HELLO, SERVER, SERVER_KEY, USER, USER_KEY, error, failure

NOW = datetime(2026, 11, 28, 3, 0, tzinfo=ZoneInfo("UTC")).timestamp()
"""19:00 on the 27th in California, where the day ends at 08:00 UTC."""

MIDNIGHT = datetime(2026, 11, 28, 8, 0, tzinfo=ZoneInfo("UTC")).timestamp()

SCHEMA = Call(
    model="gemini-3.8-flash", messages=HELLO.messages, max_output_tokens=8192, schema={"type": "object"}
)

QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to: https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your current usage, head to: "
    "https://ai.dev/rate-limit. "
)


def retry(delay):
    return {"@type": "RetryInfo", "retryDelay": delay}


def judge(code, status, message="", *details, caller=SERVER, call=HELLO, wrapped=False):
    document = error(code, status, message, *details)
    body = json.dumps([document] if wrapped else document).encode()
    return judged(Refusal.of_answer(code, body), caller, call, now=NOW)


def limit(message="", *details, caller=SERVER, **options):
    hit = judge(429, "RESOURCE_EXHAUSTED", message, *details, caller=caller, **options)
    assert isinstance(hit, LimitHit)
    return hit


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_minute_closes_the_model_for_the_wait_rounded_up_and_has_its_limit(wrapped):
    hit = limit(
        QUOTA + "\n* Quota exceeded for metric: m, limit: 200\nPlease retry in 53.016342224s.",
        failure("GenerateRequestsPerMinutePerProjectPerModel", "200"),
        retry("53s"),
        wrapped=wrapped,
    )

    assert ("minute", "model", 54.0, None) == (hit.kind, hit.scope, hit.wait, hit.until)
    assert ("rpm", 200) == (hit.limit, hit.lowered_to)
    assert isinstance(hit.error, UpstreamRateLimited)
    assert hit.error.retryable


@pytest.mark.parametrize(
    ("message", "delay", "wait"),
    [
        ("", "53s", 54.0),
        ("", "53.2s", 54.0),
        ("Please retry in 9.5s.", "9s", 10.0),
        ("Please retry in 1m2.5s.", "62s", 63.0),
        ("Please retry in 20s.", None, 20.0),
        ("", None, 60.0),
        ("", "soon", 60.0),
    ],
)
def test_the_wait_is_that_of_the_message_or_of_the_details(message, delay, wait):
    details = [failure("GenerateContentPaidTierInputTokensPerModelPerMinute", "1000000")]
    hit = limit(message, *details, *([] if delay is None else [retry(delay)]))

    assert ("minute", wait, "tpm", 1_000_000) == (hit.kind, hit.wait, hit.limit, hit.lowered_to)


def test_a_day_that_is_over_ends_at_midnight_in_california_also_beside_a_shorter_wait():
    both = {
        "@type": "QuotaFailure",
        "violations": [
            {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "quotaValue": "5"},
            {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "250"},
        ],
    }
    hit = limit(QUOTA + "Please retry in 1s.", both, retry("1s"))

    assert ("day", "model", MIDNIGHT, None) == (hit.kind, hit.scope, hit.until, hit.wait)
    assert ("rpd", 250) == (hit.limit, hit.lowered_to)
    assert isinstance(hit.error, QuotaExhausted)
    assert ("2026-11-28T08:00:00.000Z", False) == (hit.error.as_item()["resets_at"], hit.error.retryable)


def test_a_longer_wait_than_five_minutes_counts_as_exhausted_until_then():
    hit = limit("Please retry in 1h52m56.4s.", failure("GenerateRequestsPerModel", "10"))

    assert ("day", NOW + 6777) == (hit.kind, hit.until)
    assert isinstance(hit.error, QuotaExhausted)


@pytest.mark.parametrize(
    ("message", "details"),
    [
        (QUOTA, [failure("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "0"), retry("41s")]),
        (QUOTA, [failure("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "0")]),
        (
            QUOTA + "\n* Quota exceeded for metric: m, limit: 0, model: gemini-2.5-pro\nPlease retry in 32s.",
            [failure("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), retry("32s")],
        ),
    ],
)
def test_a_limit_of_zero_means_that_the_tier_does_not_have_the_model(message, details):
    hit = limit(message, *details)

    assert ("tier", "model", None, None) == (hit.kind, hit.scope, hit.wait, hit.until)
    assert isinstance(hit.error, ModelUnavailable)


MONEY = [
    "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing.",
    "The project has exceeded its monthly spending cap.",
    "Your project has reached the spend limit of its tier.",
    "Billing is disabled for this project.",
]


@pytest.mark.parametrize("message", MONEY)
def test_an_account_without_money_is_closed_and_only_its_owner_gets_the_reason(message):
    details = [failure("GenerateRequestsPerMinutePerProjectPerModel", "5"), retry("1s")]
    ours, theirs = limit(message, *details), limit(message, *details, caller=USER)

    assert [("money", "account")] * 2 == [(each.kind, each.scope) for each in (ours, theirs)]
    assert isinstance(ours.error, QuotaExhausted)
    assert isinstance(theirs.error, InsufficientCredit)
    assert (message, False) == (theirs.error.detail, message in ours.error.detail)


@pytest.mark.parametrize(
    "message", [QUOTA, "Resource has been exhausted (e.g. check quota).", "No capacity", ""]
)
def test_a_refusal_without_a_quota_is_about_shared_capacity(message):
    hit = limit(message)

    assert ("capacity", "model", None, None) == (hit.kind, hit.scope, hit.wait, hit.limit)
    assert isinstance(hit.error, UpstreamRateLimited)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>too many</html>", b"[]", b'{"error": "no"}', b"[" * 100_000, b'{"error": {"code": 1'],
)
def test_a_throttle_that_is_not_googles_is_one_of_capacity(body):
    hit = judged(Refusal.of_answer(429, body), SERVER, HELLO, now=NOW)

    assert isinstance(hit, LimitHit)
    assert "capacity" == hit.kind


@pytest.mark.parametrize(
    "details",
    [
        [{"@type": "QuotaFailure", "violations": "x"}, {"@type": "RetryInfo", "retryDelay": 4}],
        [{"@type": "QuotaFailure", "violations": [4, {"quotaId": None, "quotaValue": []}]}],
        [{"@type": "RetryInfo", "retryDelay": "9" * 400 + "s"}],
    ],
)
def test_odd_details_are_left_out(details):
    assert "capacity" == limit("", *details).kind


@pytest.mark.parametrize(
    ("start", "hours"), [("2026-03-08", 23), ("2026-07-01", 24), ("2026-11-01", 25), ("2026-12-31", 24)]
)
def test_the_day_has_as_many_hours_as_in_california(start, hours):
    begins = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo("America/Los_Angeles")).timestamp()

    assert [begins + hours * 3600] * 2 == [day_end(begins), day_end(begins + hours * 3600 - 1)]
    assert begins == day_end(begins - 1)


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        (499, "CANCELLED", "The operation was cancelled."),
        (500, "INTERNAL", "An internal error has occurred."),
        (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
        (503, "UNAVAILABLE", "This model is currently experiencing high demand."),
        (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
    ],
)
def test_googles_own_passing_errors_may_be_tried_again(code, status, message):
    again = judge(code, status, message)

    assert isinstance(again, TryAgain)
    assert isinstance(again.error, UpstreamError)
    assert message in again.error.detail


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_gateways_error_after_sending_leaves_the_outcome_unknown(status):
    assert isinstance(judged(Refusal.of_answer(status, b"<html>"), SERVER, HELLO, now=NOW), CallLost)


@pytest.mark.parametrize("status", [302, 400, 403, 407, 451])
def test_a_refusal_of_a_firewall_is_final_and_no_rejected_key(status):
    final = judged(Refusal.of_answer(status, b"<html>"), USER, HELLO, now=NOW)

    assert (UpstreamError, f"A proxy before Google answered with status {status}.") == (
        type(final),
        final.detail,
    )


def test_no_other_error_of_google_is_tried_again():
    assert isinstance(judge(501, "UNIMPLEMENTED"), UpstreamError)
    assert isinstance(judge(502, "UNKNOWN"), UpstreamError)


INVALID_KEY = {"@type": "ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}


@pytest.mark.parametrize(
    ("code", "status", "message", "details"),
    [
        (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", [INVALID_KEY]),
        (400, "INVALID_ARGUMENT", "Ungültig.", [INVALID_KEY]),
        (400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.", []),
        (401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", []),
        (403, "PERMISSION_DENIED", "Your API key was reported as leaked. Please use another API key.", []),
    ],
)
def test_a_refused_key_is_the_callers_or_the_servers(code, status, message, details):
    theirs = judge(code, status, message, *details, caller=USER)
    ours = judge(code, status, message, *details)

    assert isinstance(theirs, GeminiKeyRejected)
    assert isinstance(ours, ServerGeminiKeyRejected)
    assert (401, 500) == (theirs.status, ours.status)
    assert (True, False) == (message in theirs.detail, message in ours.detail)


def test_an_account_without_billing_where_there_is_no_free_tier_has_to_pay():
    message = "User location is not supported for the API use without a billing account linked."

    assert isinstance(judge(400, "FAILED_PRECONDITION", message, caller=USER), InsufficientCredit)
    assert isinstance(judge(400, "FAILED_PRECONDITION", message), ServerOutOfCredit)


def test_a_second_credential_is_no_fault_of_the_request():
    message = "Multiple authentication credentials received. Please pass only one."

    assert UpstreamError is type(judge(400, "INVALID_ARGUMENT", message))


def test_a_model_that_google_does_not_have_is_unavailable():
    message = "models/gemini-9 is not found for API version v1beta, or is not supported for generateContent."
    unavailable = judge(404, "NOT_FOUND", message)

    assert isinstance(unavailable, ModelUnavailable)
    assert message in unavailable.detail


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "The input token count (1300000) exceeds the maximum number of tokens allowed (1048576).",
            "has 1,300,000 tokens, and the model takes at most 1,048,576",
        ),
        (
            "The input token count exceeds the maximum number of tokens allowed 1048576.",
            "has more tokens than the model takes, and the model takes at most 1,048,576",
        ),
    ],
)
def test_a_prompt_that_is_too_large_is_refused_with_both_numbers(message, said):
    refused = judge(400, "INVALID_ARGUMENT", message)

    assert isinstance(refused, PromptTooLarge)
    assert [("prompt", said)] == [(each.field, each.message) for each in refused.problems]


STATES = "The specified schema produces a constraint that has too many states for serving."


def field_violation(field, description):
    return {"@type": "BadRequest", "fieldViolations": [{"field": field, "description": description}]}


@pytest.mark.parametrize(
    ("message", "details"),
    [
        (STATES, []),
        ("Request contains an invalid argument.", []),
        ("Request contains an invalid argument.", [field_violation("", STATES)]),
        ("Invalid value", [field_violation("generation_config.response_json_schema.items", "missing field")]),
    ],
)
def test_a_schema_that_google_does_not_take_is_named_as_the_reason(message, details):
    refused = judge(400, "INVALID_ARGUMENT", message, *details, call=SCHEMA)

    assert isinstance(refused, SchemaRefused)
    assert ["json_schema"] == [each.field for each in refused.problems]
    assert details == [] or details[0]["fieldViolations"][0]["description"] in refused.detail


def test_a_bare_refusal_without_a_schema_is_about_the_request():
    assert InvalidRequest is type(judge(400, "INVALID_ARGUMENT", "Request contains an invalid argument."))


@pytest.mark.parametrize(
    ("message", "details", "field"),
    [
        ("Thinking level MINIMAL is not supported for this model.", [], "thinking_level"),
        ("x", [field_violation("generationConfig.stopSequences", "too many")], "stop"),
        ("x", [field_violation("contents[0].parts[0].inline_data", "unsupported")], "images"),
        ("max_output_tokens must be positive", [], "max_output_tokens"),
        ("Something new", [], "prompt"),
    ],
)
def test_an_invalid_argument_is_named_by_the_field_of_the_request(message, details, field):
    refused = judge(400, "INVALID_ARGUMENT", message, *details)

    assert [field] == [each.field for each in refused.problems]


LEAKS = f"key={USER_KEY}&x=1 and AIzaOther_Key-9 and AQ.other_key.1-2 and {USER_KEY[:-1]}"


@pytest.mark.parametrize(
    ("code", "status"),
    [(400, "INVALID_ARGUMENT"), (401, "UNAUTHENTICATED"), (404, "NOT_FOUND"), (503, "UNAVAILABLE")],
)
def test_no_error_shows_a_key(code, status):
    for caller, own in ((USER, USER_KEY), (SERVER, SERVER_KEY)):
        found = judge(code, status, f"{LEAKS} {own}", field_violation("x", LEAKS), caller=caller)
        shown = json.dumps((found.error if isinstance(found, TryAgain) else found).as_item())
        assert [] == [each for each in (own, USER_KEY, "AIza", "AQ.") if each in shown]


def test_a_short_key_is_removed_as_a_word():
    short = Caller("user", "user_2", credentials(gemini="tok"))

    assert "token tokens" not in judge(401, "UNAUTHENTICATED", "The tok is no token", caller=short).detail
    assert (
        "The [token] is no token" in judge(401, "UNAUTHENTICATED", "The tok is no token", caller=short).detail
    )


def test_an_error_after_a_part_of_the_text_is_final_and_may_be_paid():
    refusal = Refusal.of_chunk({"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "No capacity"})
    ended = ended_by(refusal, SERVER)

    assert (UpstreamError, True, "false") == (type(ended), ended.may_be_paid, ended.headers["x-should-retry"])


@pytest.mark.parametrize("code", [None, "503", 12, 700])
def test_an_error_in_a_stream_without_a_usable_code_is_an_internal_one(code):
    assert 500 == Refusal.of_chunk({"code": code, "status": "UNKNOWN"}).status
