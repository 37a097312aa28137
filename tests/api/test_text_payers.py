"""Who pays for a call to a text model, and that no key is kept or shown."""

import json

import pytest

from tests.support.callers import ADMIN_KEY
from tests.support.text_calls import CREDENTIALS, GEMINI_KEY, OWN_KEY, OWNER, ask, code


@pytest.fixture
def client(texts):
    return texts()


@pytest.mark.parametrize(
    ("mark", "expected"),
    [("refused-key", (401, "gemini_key_rejected")), ("prepaid", (402, "insufficient_credit"))],
)
def test_a_refusal_of_the_callers_own_account_is_an_error_of_the_caller(client, mark, expected):
    assert expected == code(ask(client, {"prompt": f"x [[{mark}]]"} | CREDENTIALS, by={}))


@pytest.mark.parametrize(
    ("headers", "fields", "status"),
    [
        ({"Admin-API-Key": ADMIN_KEY}, {}, 200),
        ({"X-Admin-API-Key": ADMIN_KEY}, {"credentials": {"gemini_api_key": "AQ.ignored"}}, 200),
        ({"Admin-API-Key": ADMIN_KEY}, {"credentials": "AQ.ignored"}, 200),
        ({"Admin-API-Key": "wrong"}, CREDENTIALS, 401),
        ({"Admin-API-Key": "wrong"}, {"credentials": "AQ.ignored"}, 401),
        ({}, {"credentials": "AQ.x"}, 400),
        ({}, {"credentials": {"gemini_api_key": 5}}, 400),
        ({}, {"credentials": {"gemini_api_key": OWN_KEY, "another": "x"}}, 400),
        ({"Admin-API-Key": "wrong", "X-Admin-API-Key": ADMIN_KEY}, {}, 401),
        ({}, CREDENTIALS, 200),
        (OWNER, {}, 200),
        (OWNER, CREDENTIALS, 200),
        (OWNER, {"credentials": {"gemini_api_key": "AQ.another"}}, 401),
        ({"X-Replicate-API-Key": "r8_user"}, {}, 401),
        ({"X-Replicate-API-Key": "r8_user"}, CREDENTIALS, 401),
        ({}, {}, 401),
        ({}, {"credentials": None}, 401),
        ({}, {"credentials": {"gemini_api_key": ""}}, 401),
    ],
)
def test_a_call_is_paid_by_the_first_valid_credential_and_a_wrong_one_is_refused(
    client, headers, fields, status
):
    answer = ask(client, {"prompt": "Hello"} | fields, by=headers)

    assert status == answer.status_code, answer.text


@pytest.mark.parametrize("header", ["Admin-API-Key", "X-Admin-API-Key"])
def test_a_wrong_admin_key_is_refused_by_the_name_of_the_header_that_was_sent(client, header):
    answer = ask(client, {"prompt": "Hello"}, by={header: "wrong"})

    assert f"The {header} header does not hold the admin key." == answer.json["detail"]


@pytest.mark.parametrize("key", ["", "two words", "a,b"])
def test_a_key_of_the_body_that_is_none_is_refused_by_the_name_of_its_field(client, key):
    answer = ask(client, {"prompt": "Hello", "credentials": {"gemini_api_key": key}}, by={})

    assert 401 == answer.status_code
    assert "credentials.gemini_api_key must hold exactly one Gemini key." == answer.json["detail"]


@pytest.mark.parametrize("fields", [{}, {"credentials": None}])
def test_a_request_without_any_key_is_answered_in_the_words_of_the_family(client, fields):
    answer = ask(client, {"prompt": "Hello"} | fields, by={})

    sentence = "Authentication failed. Provide 'Admin-API-Key' in headers or complete credentials in payload."
    assert sentence == answer.json["detail"]


def test_an_open_service_pays_for_calls_without_a_key(texts):
    client = texts(GEMINI_OPEN=1)

    assert 200 == ask(client, {"prompt": "Hello"}, by={}).status_code
    assert 401 == ask(client, {"prompt": "Hello"}, by={"Admin-API-Key": "wrong"}).status_code
    assert 401 == client.post("/generate", json={"model_name": "flux-dev", "prompt": "x"}).status_code


@pytest.mark.every_database
def test_credentials_stay_out_of_the_ledger_the_log_and_the_answers(texts, kept, capfd):
    client = texts(LOG_LEVEL="debug")
    key = {"Idempotency-Key": "one"}
    answers = [
        ask(client, {"prompt": "Hello"} | CREDENTIALS, by={}, **key).text,
        ask(client, {"prompt": "Hello"}, by=OWNER, **key).text,
        ask(client, {"prompt": "Hi [[refused-key]]"} | CREDENTIALS, by={}).text,
        ask(client, {"prompt": 5} | CREDENTIALS, by={}).text,
        ask(client, {"requests": [{"prompt": "Hello"}]} | CREDENTIALS, to="/batch/chat", by={}).text,
    ]
    shown = [*answers, *capfd.readouterr(), kept()]

    assert json.loads(answers[0])["id"] == json.loads(answers[1])["id"]
    assert not [text for text in shown if OWN_KEY in text or GEMINI_KEY in text]


def test_form_credentials_pay(client):
    form = {"prompt": "x", "credentials": json.dumps({"gemini_api_key": OWN_KEY})}
    assert 200 == client.post("/chat", data=form, content_type="multipart/form-data").status_code
