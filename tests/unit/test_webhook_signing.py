"""The signatures of deliveries, as the client of Replicate verifies them, and the secrets of callers."""

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replicate.webhook import WebhookValidationError

from tests.support.outbox_wiring import SECRET, is_valid, secrets, story
from tests.support.virtual_time import in_virtual_time
from webhooks.signing import signed_headers

SHOP, OTHER = "key_" + "1" * 32, "key_" + "2" * 32


# ── Signatures


@given(
    content=st.text(min_size=1).map(lambda text: json.dumps(text, ensure_ascii=False)),
    key=st.binary(min_size=1, max_size=64),
    moment=st.floats(0, 1e10),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_replicates_client_accepts_a_signature_only_for_its_body_and_secret(content, key, moment):
    secret = "whsec_" + base64.b64encode(key).decode()
    body = content.encode(errors="replace")
    headers = signed_headers(body, message_id="msg_1", secrets=[secret], now=moment)

    is_valid(headers, body, secret)
    for changed, other in ((body + b" ", secret), (body, "whsec_" + base64.b64encode(key + b"a").decode())):
        with pytest.raises(WebhookValidationError):
            is_valid(headers, changed, other)
    for name in ("webhook-id", "webhook-timestamp"):
        with pytest.raises(WebhookValidationError):
            is_valid({**headers, name: headers[name] + "0"}, body, secret)


def test_a_signature_equals_that_of_the_specification():
    """The example is from the specification: github.com/standard-webhooks/standard-webhooks."""
    headers = signed_headers(
        b'{"test": 2432232314}',
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        secrets=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        now=1614265330.9,
    )

    assert {
        "Content-Type": "application/json",
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    } == headers


@pytest.mark.parametrize("secret", ["", "whsec_", "s3cret", "whsec_s3cret!", "whsec_s3cre", "whsec2_AAAA"])
def test_a_malformed_secret_is_refused_without_being_repeated(secret):
    with pytest.raises(ValueError, match="a webhook secret must be whsec_ and base64") as caught:
        secrets(secret)

    assert "s3cre" not in str(caught.value)


# ── Secrets


def test_the_secret_of_a_key_is_an_hmac_of_its_id_under_the_secret_of_the_ledger():
    made = hmac.new(b"ledger", f"webhook secret {SHOP}".encode(), hashlib.sha256).digest()

    assert "whsec_" + base64.b64encode(made).decode() == secrets(None).own(SHOP)


def test_two_keys_and_two_ledgers_have_different_secrets():
    found = [secrets(SECRET, ledger).own(key) for ledger in (b"one", b"other") for key in (SHOP, OTHER)]

    assert 4 == len({*found, SECRET} - {SECRET})


@pytest.mark.parametrize("caller", ["admin", "user_1"])
@pytest.mark.parametrize("common", [SECRET, None])
def test_only_named_keys_have_a_secret_of_their_own(caller, common):
    found = secrets(common)

    assert None is found.own(caller)
    assert common == found.shown_to(caller)
    assert ([] if common is None else [common]) == found.signing(caller)
    assert found.own(SHOP) == found.shown_to(SHOP)


@pytest.mark.parametrize("common", [SECRET, None])
@in_virtual_time
async def test_work_of_a_key_is_signed_by_its_secret_and_by_the_common_one(common):
    outcome = await story(200, caller_id=SHOP, secrets=secrets(common))

    [sent] = outcome.sender.attempts
    own = [secrets(None).own(SHOP)]
    assert len(sent.headers["webhook-signature"].split(" ")) == (1 if common is None else 2)
    for verifying in own if common is None else [common, *own]:
        is_valid(sent.headers, sent.content, verifying)
    for refused in [secrets(None).own(OTHER), secrets(None, b"other").own(SHOP)]:
        with pytest.raises(WebhookValidationError):
            is_valid(sent.headers, sent.content, refused)


@in_virtual_time
async def test_receivers_that_know_only_the_common_secret_find_its_signature_first():
    outcome = await story(200, caller_id=SHOP, secrets=secrets(SECRET))

    [sent] = outcome.sender.attempts
    first, _ = sent.headers["webhook-signature"].split(" ")
    is_valid({**sent.headers, "webhook-signature": first}, sent.content, SECRET)
