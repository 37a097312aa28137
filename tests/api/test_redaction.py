"""If Replicate's text contains a credential of the call, it reaches no response, webhook, database row or
log."""

import json
import logging
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.outputs import Url
from harness.service_process import until
from providers.redaction import REDACTED, SHORTEST, Redaction
from providers.replicate.answers import read_prediction
from tests.api.test_replicate_webhooks_http import message, post
from tests.support.api_client import PICTURE, ended, look_up, submit
from tests.support.callers import ADMIN
from tests.support.outbox_wiring import SECRET
from tests.support.served_in_process import receiving

TOKEN = "r8_Marked/token+of=the-caller"
FORMS = {
    "raw": TOKEN,
    "quoted": quote(TOKEN, safe=""),
    "lower": quote(TOKEN, safe="").lower(),
    "every character": "".join(f"%{ord(each):02X}" for each in TOKEN),
    "every character, lower": "".join(f"%{ord(each):02x}" for each in TOKEN),
    "every other character": "".join(f"%{ord(each):x}" if n % 2 else each for n, each in enumerate(TOKEN)),
    "twice": quote(quote(TOKEN, safe=""), safe=""),
}
# Percent-encoding in lower case leaves the letters of the token as they are.
FORMS["lower"] = re.sub("%..", lambda found: found[0].lower(), FORMS["quoted"])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_credential_is_removed_from_text_in_every_form(form):
    redact = Redaction(TOKEN)

    assert redact.is_in(f"a {form} b 100%")
    assert f"a {REDACTED} b 100% {REDACTED}" == redact(f"a {form} b 100% {form}")


@given(st.text(), st.text(min_size=SHORTEST), st.text(), st.randoms())
def test_no_encoding_of_a_credential_is_left_in_any_text(before, credential, after, random):
    encoded = "".join(
        random.choice([each, quote(each, safe="", errors="surrogatepass")]) for each in credential
    )

    redacted = Redaction(credential)(before + encoded + after)

    assert not Redaction(credential).is_in(redacted.replace(REDACTED, ""))
    redacted.encode()
    assert "\0" not in redacted


@given(st.text())
def test_a_text_without_a_credential_is_left_as_it_is(text):
    expected = "".join("\ufffd" if each == "\0" or "\ud800" <= each <= "\udfff" else each for each in text)

    assert expected == Redaction(TOKEN)(text)


def test_ordinary_words_are_not_removed():
    assert "a token of r8_ab" == Redaction("token", "r8_ab", "")("a token of r8_ab")


def test_a_credential_within_another_leaves_nothing_of_the_longer_one():
    assert f"a {REDACTED}" == Redaction("secret", "secret-and-more")("a secret-and-more")


def test_an_address_with_a_credential_is_no_output_and_a_text_loses_its_credential():
    output = [f"https://replicate.delivery/{form}" for form in FORMS.values()]
    answer = {"id": "p", "status": "succeeded", "output": [*output, "https://a", f"by {TOKEN}"]}

    prediction = read_prediction(answer, Redaction(TOKEN))
    dropped = "An output was left out, since its address holds a credential."
    assert [*[dropped] * len(FORMS), "https://a", f"by {REDACTED}"] == prediction.output
    assert (Url("https://a"),) == prediction.produced.files


# Through the whole service.

USER = {"X-Replicate-API-Key": TOKEN}


def answers_with(form):
    """Answers of Replicate to a creation, with the error codes that the caller gets."""
    address = f"https://replicate.delivery/{form}.png"
    over = {"error": None, "logs": f"{form} 40%"}
    return [
        ({"set": over | {"status": "failed", "error": f"Bearer {form} is wrong"}}, "generation_failed"),
        ({"set": over | {"status": "failed", "error": {"token": form}}}, "generation_failed"),
        ({"set": over | {"status": "failed", "error": f"NSFW {form}"}}, "content_refused"),
        (
            {"set": over | {"status": "succeeded", "output": [address, "https://replicate.delivery/b.png"]}},
            None,
        ),
        ({"set": over | {"status": "succeeded", "output": address}}, "generation_failed"),
        ({"set": over | {"status": "succeeded", "output": f"for {form}"}}, "generation_failed"),
        ({"status": 402, "body": {"title": form, "detail": form}}, "insufficient_credit"),
        ({"status": 422, "body": {"detail": f"- {form}: no"}}, "invalid_request"),
        (
            {"status": 422, "body": {"detail": "", "invalid_fields": [{"field": form, "description": form}]}},
            "invalid_request",
        ),
        ({"status": 404, "body": {"detail": form}}, "upstream_error"),
        ({"status": 451, "body": f"<html>{form}</html>", "headers": {"Set-Cookie": f"a {form}=1"}}, None),
    ]


@pytest.fixture
def service_and_writes(make_app, capfd, tmp_path):
    """Makes the service. Returns its client and a function that returns service_and_writes written to files and logs
    so far."""

    def make(**settings):
        app = make_app(
            REPLICATE_SIMULATE=1, WEBHOOK_SECRET=SECRET, FILES_TTL=0, LOG_FORMAT="json", LOG_LEVEL="debug", **settings
        )  # fmt: skip

        def written():
            files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
            captured = capfd.readouterr()
            return "\n".join([captured.err, captured.out, *(each.decode("latin-1") for each in files)])

        return app.test_client(), written

    yield make
    logging.getLogger().handlers.clear()  # their stream ends with this test


@pytest.mark.slow
@pytest.mark.parametrize("form", [FORMS["raw"], FORMS["lower"], FORMS["every character"]])
def test_no_answer_webhook_row_or_log_has_the_callers_token(service_and_writes, simulator, form):
    client, written = service_and_writes()
    answers, codes = [], []
    with receiving() as receiver:
        for fault, code in answers_with(form):
            simulator.inject(on="create", **fault)
            answer = client.post("/generate", json=PICTURE | {"webhook": receiver.url}, headers=USER)
            codes.append((fault, code, answer.json.get("code")))
            answers += [
                answer.get_data(as_text=True),
                json.dumps(look_up(client, answer.json["id"], by=USER)),
            ]
        until(lambda: len(answers_with(form)) == len(receiver.received))
        answers += [message.body.decode() for message in receiver.received]
        answers.append(client.get("/generations", headers=USER).get_data(as_text=True))

    assert [] == [(fault, code, got) for fault, code, got in codes if code != got]
    everywhere = written()
    assert "generation_ended" in everywhere
    for text in (*answers, everywhere):
        assert not Redaction(TOKEN).is_in(text)
    assert REDACTED in "".join(answers)


def test_no_answer_webhook_row_or_log_has_the_servers_token(service_and_writes, simulator):
    client, written = service_and_writes(REPLICATE_API_TOKEN=TOKEN)
    simulator.inject(on="create", set={"status": "failed", "error": f"Bearer {TOKEN} is wrong"})
    answer = client.post("/generate", json=PICTURE, headers=ADMIN).get_data(as_text=True)

    assert f"Bearer {REDACTED} is wrong" in answer
    assert not Redaction(TOKEN).is_in(answer + written())


def test_a_pushed_result_loses_the_token_and_the_secret_it_is_signed_with(service_and_writes, simulator):
    client, written = service_and_writes()
    target = submit(client, "[[hang]]", by=USER)
    until(lambda: "running" == look_up(client, target, by=USER)["status"])
    (prediction,) = simulator.predictions()
    secret = simulator.server.state.webhooks.secret(TOKEN)
    pushed = message(target, prediction, status="failed", error=f"{TOKEN} {quote(secret, safe='')} {secret}")

    assert 204 == post(client, pushed, secret).status_code

    result = ended(client, target, by=USER)
    assert f"{REDACTED} {REDACTED} {REDACTED}" == result["error"]["detail"]
    assert not Redaction(TOKEN, secret).is_in(json.dumps(result) + written())
