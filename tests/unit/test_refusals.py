"""Replicate's refusals: how long to wait, and which error the caller gets."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.replicate.answers import exhausted_for
from providers.replicate.errors import LONGEST_WAIT, seconds_to_wait, service_error
from providers.replicate.transport import Refusal
from tests.support.wiring import ADMIN, USER, on_a_loop, parts, result


def refusal(status: int = 429, body: object = None, **headers: str) -> Refusal:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Refusal(status, named, json.dumps(body).encode())


THROTTLED = "Request was throttled. Your rate limit resets in ~12s."


@pytest.mark.parametrize(
    ("expected", "headers", "body"),
    [
        (3.0, {"retry_after": "3"}, {"detail": THROTTLED, "retry_after": 10}),
        (10.0, {}, {"detail": THROTTLED, "retry_after": 10}),
        (12.0, {}, {"detail": THROTTLED}),
        (0.5, {}, {"detail": "Your rate limit resets in ~0.5s."}),
        (None, {}, {"detail": "Request was throttled."}),
        (None, {}, ["throttled"]),
        (None, {}, {"retry_after": "soon", "detail": None}),
        (10.0, {"retry_after": "soon"}, {"retry_after": 10}),
        (0.0, {"retry_after": "-5"}, {}),
        (0.0, {"retry_after": "Fri, 31 Dec 1999 23:59:59 GMT"}, {}),
        (LONGEST_WAIT, {"retry_after": "Fri, 31 Dec 2999 23:59:59 GMT"}, {}),
        (LONGEST_WAIT, {"retry_after": "100000"}, {}),
        (LONGEST_WAIT, {"retry_after": "inf"}, {}),
        (None, {"retry_after": "nan"}, {}),
        (None, {}, {"retry_after": float("nan")}),
        (LONGEST_WAIT, {}, {"retry_after": 100_000}),
        (LONGEST_WAIT, {}, {"detail": "resets in ~100000s"}),
    ],
)
def test_the_wait_is_from_the_header_else_the_body_else_the_text_and_is_bounded(expected, headers, body):
    assert expected == seconds_to_wait(refusal(body=body, **headers))


@given(st.text(), st.one_of(st.none(), st.booleans(), st.floats(), st.text()), st.text())
def test_the_wait_of_any_refusal_is_a_number_within_bounds(header, retry_after, detail):
    wait = seconds_to_wait(refusal(body={"retry_after": retry_after, "detail": detail}, retry_after=header))

    assert wait is None or 0.0 <= wait <= LONGEST_WAIT


@pytest.mark.parametrize(
    ("expected", "remaining", "reset"),
    [
        (8.0, "0", "8"),
        (0.0, "1", "8"),
        (0.0, "0", "-8"),
        (0.0, "0", "soon"),
        (0.0, "0", "nan"),
        (LONGEST_WAIT, "0", "100000"),
        (LONGEST_WAIT, "0", "inf"),
    ],
)
def test_an_account_out_of_creations_waits_for_the_reset_up_to_a_bound(expected, remaining, reset):
    assert expected == exhausted_for({"ratelimit-remaining": remaining, "ratelimit-reset": reset})


def test_an_answer_without_limits_pauses_no_account():
    assert 0.0 == exhausted_for({})


@pytest.mark.parametrize(
    ("status", "to_a_user", "to_the_admins_caller"),
    [
        (401, "replicate_token_rejected", "server_token_rejected"),
        (402, "insufficient_credit", "server_out_of_credit"),
        (403, "replicate_token_rejected", "server_token_rejected"),
        (404, "upstream_error", "upstream_error"),
        (422, "invalid_request", "invalid_request"),
        (429, "upstream_rate_limited", "upstream_rate_limited"),
        (500, "upstream_error", "upstream_error"),
    ],
)
@pytest.mark.parametrize("body", [{}, [], {"detail": None}, {"detail": {"a": 1}}, "text", None])
def test_a_refusal_has_one_code_whatever_its_body(status, to_a_user, to_the_admins_caller, body):
    assert to_a_user == service_error(refusal(status, body), USER).code
    assert to_the_admins_caller == service_error(refusal(status, body), ADMIN).code


def test_a_422_lists_every_invalid_field_by_name():
    body = {
        "detail": "- input.seed: Must be an integer\n- input.guidance: Must be less than or equal to 10\n",
        "invalid_fields": [
            {"field": "input.seed", "description": "Must be an integer"},
            {"field": "input.guidance", "description": "Must be less than or equal to 10"},
            "and a stray",
        ],
    }

    item_errors = service_error(refusal(422, body), USER).as_item()["errors"]

    assert [
        {"field": "seed", "message": "Must be an integer"},
        {"field": "guidance", "message": "Must be less than or equal to 10"},
    ] == item_errors


def test_a_422_without_fields_keeps_its_own_text():
    body = {"title": "Invalid version", "detail": "The specified version does not exist"}

    item_errors = service_error(refusal(422, body), USER).as_item()["errors"]

    assert [{"field": "input", "message": "The specified version does not exist"}] == item_errors


@pytest.mark.parametrize(
    ("caller", "account", "code"),
    [
        (USER, {"reject": True}, "replicate_token_rejected"),
        (USER, {"credit": "empty"}, "insufficient_credit"),
        (ADMIN, {"reject": True}, "server_token_rejected"),
        (ADMIN, {"credit": "empty"}, "server_out_of_credit"),
    ],
)
@on_a_loop
async def test_account_errors_are_final(simulator, caller, account, code):
    simulator.account(caller.credentials["replicate"], **account)
    async with parts(simulator) as service:
        ended = await service.run(caller=caller)

    assert (code, 1) == (ended.error.code, len(ended.attempts))
    assert 1 == simulator.counts().requests["create"]
    assert 0 == simulator.counts().creations_accepted


@on_a_loop
async def test_billing_advice_reaches_a_user_and_never_the_admins_caller(simulator):
    simulator.account(USER.credentials["replicate"], credit="empty")
    simulator.account(ADMIN.credentials["replicate"], credit="empty")
    async with parts(simulator) as service:
        to_user = await service.run(caller=USER)
        to_admins_caller = await service.run(caller=ADMIN)

    assert "https://replicate.com/account/billing" in str(result(to_user))
    assert "billing" not in str(result(to_admins_caller))
    assert "credit to" not in str(result(to_admins_caller))


@on_a_loop
async def test_low_credit_advice_never_reaches_a_caller(simulator):
    low = {
        "detail": "Request was throttled. Your rate limit for creating predictions is reduced to 6 requests per "
        "minute with a burst of 1 requests while you have less than $5.0 in credit.",
        "retry_after": 0,
    }
    simulator.inject(on="create", times=20, status=429, headers={}, body=low)
    async with parts(simulator) as service:
        ended = await service.run(caller=ADMIN)

    assert "upstream_rate_limited" == ended.error.code
    assert "credit" not in str(result(ended))
