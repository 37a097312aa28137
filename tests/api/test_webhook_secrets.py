"""The secret of a named key: it verifies the webhooks of its own work, and of no other, in all processes."""

from contextlib import ExitStack

import pytest
import replicate
from replicate.webhook import WebhookValidationError

from harness.service_process import until
from tests.support.api_client import picture, submit, submit_batch
from tests.support.callers import ADMIN, ADMIN_KEY, USER
from tests.support.named_keys import change_key, make_key, sender_of_each_role
from tests.support.outbox_wiring import SECRET, is_valid
from tests.support.served_in_process import online, receiving

DOOR = "/replicate/v1/webhooks/default/secret"

SIGNING = {"REPLICATE_SIMULATE": 1, "WEBHOOK_SECRET": SECRET}


@pytest.fixture
def make_client(make_app):
    """Makes a client of the service, which may call receivers on this machine."""
    return lambda **settings: make_app(**SIGNING | settings).test_client()


def secret_of(client, by):
    shown = client.get("/keys/self", headers=by).json["webhook_secret"]
    assert {"key": shown} == client.get(DOOR, headers=by).json
    return shown


def signed_by(message, *secrets):
    """Which of the secrets verify a message."""
    found = []
    for number, secret in enumerate(secrets):
        try:
            is_valid(message.headers, message.body, secret)
        except WebhookValidationError:
            continue
        found.append(number)
    return found


def test_the_client_of_replicate_verifies_webhooks_by_the_secret_that_the_door_shows_to_its_key(make_app):
    with receiving() as receiver, ExitStack() as stack:
        app = make_app(WEBHOOK_SECRET=SECRET, WEBHOOK_HOSTS="127.0.0.1")
        url = stack.enter_context(online(app))
        made = [make_key(app.test_client(), name)[1]["X-API-Key"] for name in ("shop", "other")]
        clients = [replicate.Client(api_token=each, base_url=f"{url}/replicate") for each in made]
        for each in clients:
            stack.callback(each._client.close)  # noqa: SLF001 - the official client has no close
        own, other = (each.webhooks.default.secret() for each in clients)
        clients[0].models.predictions.create(
            "black-forest-labs/flux-dev",
            {"prompt": "[[slow=0.2]] a fox"},
            webhook=receiver.url,
            webhook_events_filter=["start", "completed"],
        )
        until(lambda: 2 == len(receiver.received))

    assert ["processing", "succeeded"] == sorted(each.json["status"] for each in receiver.received)
    for each in receiver.received:
        assert [0, 1] == signed_by(each, own.key, SECRET, other.key)


def test_results_and_batches_of_two_keys_verify_each_by_its_own_secret(make_client):
    client = make_client()
    one, other = make_key(client)[1], make_key(client)[1]
    with receiving() as receiver:
        works = {
            submit(client, by=one, webhook=receiver.url): 0,
            submit_batch(client, "a", "b", by=one, webhook=receiver.url): 0,
            submit(client, by=other, webhook=receiver.url): 1,
        }
        until(lambda: len(works) == len(receiver.received))

    secrets = [secret_of(client, by) for by in (one, other)]
    found = {each.json["id"]: signed_by(each, *secrets, SECRET) for each in receiver.received}
    assert {work: [owner, 2] for work, owner in works.items()} == found


def test_work_of_the_admin_key_and_of_users_is_signed_by_webhook_secret_alone(make_client):
    client = make_client()
    with receiving() as receiver:
        for by in (ADMIN, USER):
            submit(client, by=by, webhook=receiver.url)
        until(lambda: 2 == len(receiver.received))

    for each in receiver.received:
        assert 1 == len(each.headers["webhook-signature"].split())
        is_valid(each.headers, each.body)


def test_without_webhook_secret_only_work_of_named_keys_is_signed(make_app):
    client = make_app(REPLICATE_SIMULATE=1).test_client()
    _, by = make_key(client)
    with receiving() as signed, receiving() as unsigned:
        submit(client, by=by, webhook=signed.url)
        submit(client, by=ADMIN, webhook=unsigned.url)
        until(lambda: signed.received and unsigned.received)

    assert 1 == len(signed.received[0].headers["webhook-signature"].split())
    assert [0] == signed_by(signed.received[0], secret_of(client, by))
    assert "webhook-signature" not in unsigned.received[0].headers
    assert 404 == client.get(DOOR, headers=ADMIN).status_code


def test_a_secret_is_shown_to_keys_that_may_generate_and_webhook_secret_to_no_named_key(make_client):
    client = make_client()
    by = sender_of_each_role(client)

    shown = [secret_of(client, by[role]) for role in ("admin", "caller")]

    assert 2 == len({*shown} - {SECRET})
    for role in ("viewer", "metrics", "user"):
        assert "webhook_secret" not in client.get("/keys/self", headers=by[role]).json
        assert 403 == client.get(DOOR, headers=by[role]).status_code
    assert {"key": SECRET} == client.get(DOOR, headers=ADMIN).json
    assert "webhook_secret" not in client.get("/keys/self", headers=ADMIN).json


@pytest.mark.every_database
def test_a_secret_stays_through_changes_rotation_and_a_restart(make_app):
    app = make_app()
    client = app.test_client()
    key_id, by = make_key(client)
    before = secret_of(client, by)

    change_key(client, key_id, name="renamed", role="admin")
    rotated = client.post(f"/keys/{key_id}/rotate", json={}, headers=ADMIN).json
    by = {"X-API-Key": rotated["key"]}
    assert before == secret_of(client, by)
    app.extensions["service"].close()

    assert before == secret_of(make_app().test_client(), by)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_two_processes_on_one_ledger_show_the_same_secret(make_client):
    one, other = make_client(), make_client()
    _, by = make_key(one)

    assert secret_of(one, by) == secret_of(other, by)


@pytest.mark.every_database
def test_the_next_process_signs_alike_after_the_key_was_deleted(make_app):
    settings = SIGNING | {"PROCESS_TTL": 1}
    app = make_app(**settings)
    client = app.test_client()
    key_id, by = make_key(client)
    secret = secret_of(client, by)
    with receiving(None, None, 204) as receiver:
        submit(client, by=by, webhook=receiver.url)
        submit_batch(client, "[[slow=0]] a", by=by, webhook=receiver.url)
        until(lambda: 2 == len(receiver.received))
        assert 204 == client.delete(f"/keys/{key_id}", headers=ADMIN).status_code
        app.extensions["service"].close()
        make_app(**settings)
        until(lambda: 4 == len(receiver.received))

    for each in receiver.received:
        assert [0, 1] == signed_by(each, secret, SECRET)


def test_no_other_answer_no_act_no_log_and_no_row_has_a_secret(make_app, tmp_path, capfd):
    app = make_app(LOG_LEVEL="debug", **SIGNING)
    client = app.test_client()
    made = client.post("/keys", json={"name": "shop"}, headers=ADMIN)
    key_id, by = made.json["id"], {"X-API-Key": made.json["key"]}
    with receiving() as receiver:
        work = client.post("/generate", json=picture(webhook=receiver.url), headers=by)
        until(lambda: receiver.received)
    secret = secret_of(client, by)
    answers = [
        made,
        work,
        change_key(client, key_id, name="renamed"),
        client.post(f"/keys/{key_id}/rotate", json={"grace_seconds": 60}, headers=ADMIN),
        *(
            client.get(path, headers=ADMIN)
            for path in ("/keys", f"/keys/{key_id}", "/audit", f"/generations/{work.json['id']}", "/status")
        ),
    ]
    app.extensions["service"].close()

    bare = secret.removeprefix("whsec_")
    for each in answers:
        assert each.status_code < 300
        assert bare not in each.text
        assert "webhook_secret" not in each.text
    for text in capfd.readouterr():
        assert bare not in text
        assert ADMIN_KEY not in text
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or bare.encode() not in path.read_bytes()
