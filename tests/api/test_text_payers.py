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
def test_what_the_callers_own_account_lacks_is_the_callers_to_mend(client, mark, expected):
    assert expected == code(ask(client, {"prompt": f"x [[{mark}]]"} | CREDENTIALS, by={}))


@pytest.mark.parametrize(
    ("headers", "fields", "status"),
    [
        ({"Admin-API-Key": ADMIN_KEY}, {}, 200),
        ({"X-Admin-API-Key": ADMIN_KEY}, {"credentials": {"gemini_api_key": "AQ.ignored"}}, 200),
        ({"Admin-API-Key": "wrong"}, CREDENTIALS, 401),
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
def test_who_pays(client, headers, fields, status):
    answer = ask(client, {"prompt": "Hello"} | fields, by=headers)

    assert status == answer.status_code, answer.text
    if not headers and status == 401 and fields != CREDENTIALS:
        said = "Authentication failed. Provide 'Admin-API-Key' in headers or complete credentials in payload."
        assert said == answer.json["detail"] or fields.get("credentials")


def test_an_open_service_pays_for_calls_without_a_key(texts):
    client = texts(GEMINI_OPEN=1)

    assert 200 == ask(client, {"prompt": "Hello"}, by={}).status_code
    assert 401 == ask(client, {"prompt": "Hello"}, by={"Admin-API-Key": "wrong"}).status_code
    assert 401 == client.post("/generate", json={"model_name": "flux-dev", "prompt": "x"}).status_code


@pytest.mark.every_database
def test_credentials_stay_out_of_the_ledger_the_log_and_the_answers(texts, tmp_path, database_url, capfd):
    client = texts(LOG_LEVEL="debug")
    key = {"Idempotency-Key": "one"}
    told = [
        ask(client, {"prompt": "Hello"} | CREDENTIALS, by={}, **key).text,
        ask(client, {"prompt": "Hello"}, by=OWNER, **key).text,
        ask(client, {"prompt": "Hi [[refused-key]]"} | CREDENTIALS, by={}).text,
        ask(client, {"prompt": 5} | CREDENTIALS, by={}).text,
        ask(client, {"requests": [{"prompt": "Hello"}]} | CREDENTIALS, to="/batch/chat", by={}).text,
    ]
    told.append("".join(capfd.readouterr()))
    told += [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    if database_url:
        import psycopg

        with psycopg.connect(database_url) as connection:
            names = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
            ).fetchall()
            for (name,) in names:
                rows = connection.execute(f"SELECT it::text FROM {name} AS it".encode()).fetchall()
                told += [text for (text,) in rows]

    assert json.loads(told[0])["id"] == json.loads(told[1])["id"]
    assert not [text for text in told if OWN_KEY in text or GEMINI_KEY in text]


def test_form_credentials_pay(client):
    form = {"prompt": "x", "credentials": json.dumps({"gemini_api_key": OWN_KEY})}
    assert 200 == client.post("/chat", data=form, content_type="multipart/form-data").status_code
