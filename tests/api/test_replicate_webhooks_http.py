"""`POST /webhooks/replicate`: signed messages are trusted, and no message does harm."""

import base64
import hashlib
import hmac
import json
import time
from contextlib import contextmanager

import pytest

from harness.service_process import free_port, until
from simulator.webhooks import signed
from tests.support.api_client import PICTURE, ended, look_up, state, submit
from tests.support.callers import ADMIN, SERVER_TOKEN, USER
from tests.support.problem_documents import problem
from tests.support.served_in_process import online

PATH = "/webhooks/replicate"


@pytest.fixture
def app(make_app):
    return make_app(FILES_TTL=0)  # the outputs in these messages cannot be fetched


@pytest.fixture
def with_webhooks(make_app, simulator):
    """Starts a service that the simulator can reach."""

    @contextmanager
    def begin(**settings):
        port = free_port()
        app = make_app(REPLICATE_SIMULATE=1, PUBLIC_URL=f"http://127.0.0.1:{port}", **settings)
        with online(app, port):
            yield app.test_client()

    return begin


@pytest.fixture
def secret(simulator):
    """The signing secret of an account."""
    return lambda token=SERVER_TOKEN: simulator.server.state.webhooks.secret(token)


def message(target, prediction, *, status="succeeded", **changes):
    """The webhook that Replicate would send about this prediction to this generation."""
    body = {
        "id": prediction.id,
        "model": prediction.model,
        "input": dict(prediction.input),
        "status": status,
        "output": ["https://replicate.delivery/forged.png"] if status == "succeeded" else None,
        "webhook": prediction.webhook,
        "created_at": prediction.created_at.isoformat(),
        **changes,
    }
    return f"{PATH}?generation={target}&attempt=1", json.dumps(body).encode()


def post(client, sent, key, **changes):
    path, body = sent
    headers = signed(body, message="msg_1", secret=key) | changes
    return client.post(
        path, data=body, headers={name: value for name, value in headers.items() if value is not None}
    )


@pytest.fixture
def running(app, client, simulator):
    """A generation that never ends by itself, and its prediction. The simulator sends no webhook about it."""
    target = submit(client, "[[hang]]", by=ADMIN)
    until(lambda: "running" == state(client, target, by=ADMIN))
    (prediction,) = simulator.predictions()
    yield target, prediction
    client.delete(f"/generations/{target}", headers=ADMIN)


def test_creations_request_a_webhook_and_it_ends_the_wait_without_a_poll(with_webhooks, simulator):
    for on in ("get", "list"):
        simulator.inject(on=on, times=1000, status=503)
    with with_webhooks() as client:
        targets = [submit(client, "[[hang]]", by=by) for by in (ADMIN, USER)]
        until(lambda: 2 == simulator.counts().in_flight)
        simulator.finish()
        results = [ended(client, target, by=ADMIN) for target in targets]
        # Counted after the answers to them, so the service must still be there.
        until(lambda: 2 == simulator.counts().webhooks_delivered)

    assert ["succeeded"] * 2 == [each["status"] for each in results]
    for prediction in simulator.predictions():
        [result] = [each for each in results if prediction.id == each["prediction_id"]]
        assert f"{PATH}?generation={result['id']}&attempt=1" in prediction.webhook
        assert ["completed"] == prediction.body["webhook_events_filter"]
    assert 0 == simulator.counts().webhooks_refused
    assert 2 == simulator.counts().requests["secret"]


def test_without_a_public_url_no_webhook_is_requested(client, simulator):
    client.post("/generate", json=PICTURE, headers=ADMIN)

    (prediction,) = simulator.predictions()
    assert prediction.webhook is None


def test_a_pushed_failure_ends_the_generation_with_its_error(with_webhooks, simulator):
    for on in ("get", "list"):
        simulator.inject(on=on, times=1000, status=503)
    with with_webhooks() as client:
        answer = client.post("/generate", json=PICTURE | {"prompt": "[[nsfw]]"}, headers=USER)
        # Counted after the answer to it, so the service must still be there.
        until(lambda: 1 == simulator.counts().webhooks_delivered)

    problem(answer, 422, "content_refused")


def test_a_webhook_signed_with_the_accounts_secret_is_trusted(client, running, secret):
    target, prediction = running

    assert 204 == post(client, message(target, prediction), secret()).status_code

    result = ended(client, target, by=ADMIN)
    assert ("succeeded", ["https://replicate.delivery/forged.png"]) == (result["status"], result["output"])


def test_a_repeated_webhook_changes_nothing(client, running, secret):
    target, prediction = running
    post(client, message(target, prediction, status="failed", error="first"), secret())
    before = ended(client, target, by=ADMIN)

    for sent in (message(target, prediction, status="failed", error="first"), message(target, prediction)):
        assert 204 == post(client, sent, secret()).status_code

    assert before == look_up(client, target, by=ADMIN)
    assert 1 == client.get("/usage", headers=ADMIN).json["total"]["generations"]


def test_a_webhook_with_a_wrong_or_old_signature_is_refused_and_changes_nothing(client, running, secret):
    target, prediction = running
    sent = message(target, prediction)
    path, body = sent

    def old(seconds):
        stamp = str(int(time.time()) - seconds)
        key = base64.b64decode(secret().removeprefix("whsec_"))
        proof = hmac.digest(key, b"msg_1." + stamp.encode() + b"." + body, hashlib.sha256)
        return {"webhook-timestamp": stamp, "webhook-signature": f"v1,{base64.b64encode(proof).decode()}"}

    answers = [
        post(client, sent, secret("r8_user")),
        post(client, sent, "whsec_AAAA"),
        post(client, sent, secret(), **{"webhook-id": "msg_2"}),
        post(client, sent, secret(), **{"webhook-signature": "v1,"}),
        post(client, sent, secret(), **{"webhook-signature": None}),
        post(client, sent, secret(), **{"webhook-timestamp": None}),
        post(client, sent, secret(), **old(301)),
        post(client, sent, secret(), **old(-360)),
        post(client, sent, secret(), **{"webhook-timestamp": "soon"}),
        client.post(path, data=b"", headers=ADMIN),
        client.post(path, data=body, headers=ADMIN),
        post(client, (path, b"[]"), secret()),
        post(client, (path, b"{" * 5000), secret()),
        post(client, (path, b"\xff\xfe"), secret()),
    ]

    for answer in answers:
        told_why = problem(answer, 401, "unauthenticated")
        assert "whsec" not in json.dumps(told_why)
    assert "running" == state(client, target, by=ADMIN)
    assert 204 == post(client, sent, secret(), **old(200)).status_code
    assert "succeeded" == ended(client, target, by=ADMIN)["status"]


def test_a_webhook_about_an_unknown_generation_is_accepted_and_ignored(client, simulator):
    batch = client.post("/generate-batch", json={"model_name": "flux-dev", "prompts": ["a"]}, headers=ADMIN)
    for target in ("", "gen_0", "x" * 3000, "gen_%00", batch.json["id"], "../../etc"):
        assert 204 == client.post(f"{PATH}?generation={target}", data=b"not even JSON").status_code
    assert 204 == client.post(PATH).status_code
    assert "secret" not in simulator.counts().requests


def test_a_webhook_about_another_generations_prediction_changes_nothing(client, running, simulator, secret):
    target, prediction = running
    other = submit(client, "[[hang]] other", by=ADMIN)
    until(lambda: "running" == state(client, other, by=ADMIN))
    theirs = simulator.predictions()[-1]

    for number in ("1", "2", "", "x" * 1000, "1&attempt=2"):
        path, body = message(other, prediction)
        assert 204 == post(client, (path.removesuffix("1") + number, body), secret()).status_code
        path, body = message(target, theirs)
        assert 204 == post(client, (path.removesuffix("1") + number, body), secret()).status_code

    assert ["running", "running"] == [state(client, each, by=ADMIN) for each in (target, other)]
    client.delete(f"/generations/{other}", headers=ADMIN)


def test_one_account_cannot_end_another_accounts_generation(client, simulator, secret):
    target = submit(client, "[[hang]]", by=USER)
    until(lambda: "running" == state(client, target))
    (prediction,) = simulator.predictions()

    problem(post(client, message(target, prediction), secret(SERVER_TOKEN)), 401, "unauthenticated")
    assert "running" == state(client, target)
    assert 204 == post(client, message(target, prediction), secret("r8_user")).status_code
    assert "succeeded" == ended(client, target)["status"]


def test_a_message_about_an_unfinished_prediction_ends_nothing(client, running, secret):
    target, prediction = running

    for status in ("starting", "processing"):
        assert 204 == post(client, message(target, prediction, status=status), secret()).status_code

    assert "running" == state(client, target, by=ADMIN)


def test_replicate_must_send_again_if_the_secret_cannot_be_fetched(client, running, simulator, secret):
    target, prediction = running
    simulator.inject(on="secret", status=500)

    problem(post(client, message(target, prediction), secret()), 500, "upstream_error", retryable=True)
    assert "running" == state(client, target, by=ADMIN)
    assert 204 == post(client, message(target, prediction), secret()).status_code


def test_the_secret_is_fetched_once_for_any_number_of_webhooks(client, running, simulator, secret):
    for _ in range(3):
        post(client, message(*running), "whsec_AAAA")

    assert 1 == simulator.counts().requests["secret"]


def test_a_body_that_is_too_large_is_refused_and_not_read_if_no_generation_matches(make_app, simulator):
    client = make_app(MAX_BODY_BYTES=2048).test_client()
    target = submit(client, "[[hang]]", by=ADMIN)
    until(lambda: "running" == state(client, target, by=ADMIN))

    problem(client.post(f"{PATH}?generation={target}&attempt=1", data=b"x" * 4096), 413, "payload_too_large")
    assert 204 == client.post(f"{PATH}?generation=gen_0&attempt=1", data=b"x" * 4096).status_code


def test_a_creation_whose_answer_was_lost_is_adopted_when_its_webhook_arrives(with_webhooks, simulator):
    simulator.inject(on="create", reset="after")
    with with_webhooks() as client:
        answer = client.post("/generate", json=PICTURE, headers=ADMIN)

    assert (200, 1) == (answer.status_code, answer.json["attempts"])
    assert simulator.predictions()[0].id == answer.json["prediction_id"]
    assert 1 == simulator.counts().creations_accepted


def test_a_result_pushed_while_the_service_was_down_is_polled(with_webhooks, simulator):
    with with_webhooks() as client:
        target = submit(client, "[[hang]]", by=ADMIN)
        until(lambda: 1 == simulator.counts().in_flight)
        client.application.extensions["service"].close()
    simulator.finish()

    with with_webhooks() as client:
        assert "succeeded" == ended(client, target, by=ADMIN)["status"]


def test_a_webhook_for_suspended_work_is_ignored_and_sends_no_request(with_webhooks, simulator, secret):
    with with_webhooks() as client:
        target = submit(client, "[[hang]]", by=USER)
        until(lambda: "running" == state(client, target))
        client.application.extensions["service"].close()
    asked = simulator.counts().requests.get("secret", 0)
    (prediction,) = simulator.predictions()
    with with_webhooks() as client:
        assert 204 == post(client, message(target, prediction), secret(SERVER_TOKEN)).status_code
        assert 204 == client.post(message(target, prediction)[0], data=b"").status_code
        assert "running" == state(client, target, by=ADMIN)

        assert asked == simulator.counts().requests.get("secret", 0)
        simulator.finish()
        result = ended(client, target)
    assert list(prediction.output or simulator.predictions()[0].output) == result["output"]
