"""A caller's `webhook`: the result goes to its URL, signed, until it was received, over restarts too."""

import pytest

from harness.service_process import until
from tests.support.api_client import (
    CHECKED,
    PICTURE,
    ended,
    look_up,
    meanwhile,
    picture,
    submit,
    submit_batch,
)
from tests.support.callers import ADMIN, USER
from tests.support.ndjson import NDJSON, lines, settle
from tests.support.outbox_wiring import SECRET, is_valid
from tests.support.problem_documents import fields, problem
from tests.support.served_in_process import receiving


@pytest.fixture
def make_calling(make_app):
    """Makes the service as it is where webhooks may be on this very machine."""

    def make(**settings):
        return make_app(REPLICATE_SIMULATE=1, WEBHOOK_SECRET=SECRET, **settings)

    return make


def delivered(client, target, *, by=USER):
    """How its delivery stands, once it is over."""
    until(lambda: look_up(client, target, by=by).get("webhook", {"state": "pending"})["state"] != "pending")
    return look_up(client, target, by=by)["webhook"]


def test_the_result_is_posted_as_it_would_have_been_answered_and_signed_as_replicate_signs(make_calling):
    client = make_calling().test_client()
    with receiving() as receiver:
        answer = client.post(
            "/generate", json=PICTURE | {"webhook": f"{receiver.url}/here?key=1"}, headers=USER
        )
        webhook = delivered(client, answer.json["id"])

    (message,) = receiver.received
    assert ("/here?key=1", "application/json") == (message.path, message.headers["content-type"])
    assert answer.json == message.json
    assert f"msg_{answer.json['id']}" == message.headers["webhook-id"]
    is_valid(message.headers, message.body)
    with pytest.raises(ValueError, match="signature"):
        is_valid(message.headers, message.body.replace(b"succeeded", b"successful"))
    assert {
        "url": f"{receiver.url}/here?key=1",
        "state": "delivered",
        "attempts": 1,
        "next_attempt_at": None,
        "trouble": None,
        "delivered_at": webhook["delivered_at"],
    } == webhook


@pytest.mark.parametrize("prompt", ["[[fail]]", "[[nsfw]]"])
def test_a_failure_is_delivered(make_calling, prompt):
    client = make_calling().test_client()
    with receiving() as receiver:
        target = submit(client, prompt, webhook=receiver.url)
        until(lambda: receiver.received)

    assert (False, "failed", target) == tuple(
        receiver.received[0].json[name] for name in ("success", "status", "id")
    )
    assert ended(client, target)["error"] == receiver.received[0].json["error"]


def test_a_cancelled_generation_is_delivered(make_calling, simulator):
    client = make_calling().test_client()
    with receiving() as receiver:
        target = submit(client, "[[hang]]", webhook=receiver.url)
        until(lambda: 1 == simulator.counts().in_flight)
        client.delete(f"/generations/{target}", headers=USER)
        until(lambda: receiver.received)

    assert "canceled" == receiver.received[0].json["status"]


def test_a_batch_is_delivered_once_and_items_with_webhooks_by_themselves(make_calling):
    client = make_calling().test_client()
    with receiving() as whole, receiving() as item:
        items = [picture("a"), picture("[[fail]] b", webhook=item.url)]
        answer = client.post(
            "/generate-batch", json={"requests": items, "webhook": whole.url}, headers=USER
        ).json
        assert "delivered" == delivered(client, answer["id"])["state"]
        second = answer["results"][1]["id"]
        assert "delivered" == delivered(client, second)["state"]

    assert [answer] == [message.json for message in whole.received]
    assert [second] == [message.json["id"] for message in item.received]
    assert "webhook" not in look_up(client, answer["results"][0]["id"])


def test_what_a_webhook_waits_for_goes_on_though_the_rest_of_its_batch_is_given_up(make_calling, simulator):
    app = make_calling()
    client = app.test_client()

    def states():
        return [each["status"] for each in client.get("/generations", headers=USER).json["generations"]]

    with receiving() as receiver:
        items = [picture("quick"), picture("[[hang]]", webhook=receiver.url), picture("[[hang]]")]
        answer = client.post("/generate-batch", json={"requests": items}, headers=USER | NDJSON)
        next(lines(answer))
        answer.close()
        until(lambda: "canceled" in states())
        meanwhile(simulator.finish, lambda: settle(app))
        until(lambda: receiver.received)

    assert ["succeeded"] == [message.json["status"] for message in receiver.received]
    assert ["canceled", "succeeded", "succeeded"] == states()


def test_a_repeated_idempotency_key_does_not_repeat_the_delivery(make_calling):
    client = make_calling().test_client()
    key = USER | {"Idempotency-Key": "k"}
    with receiving() as receiver:
        for _ in range(2):
            answer = client.post("/generate", json=PICTURE | {"webhook": receiver.url}, headers=key)
            delivered(client, answer.json["id"])

    assert 1 == len(receiver.received)


def test_a_delivery_is_pending_before_the_result_is_ready(make_calling, simulator):
    client = make_calling().test_client()
    with receiving() as receiver:
        targets = [
            submit(client, "[[hang]]", webhook=receiver.url),
            submit_batch(client, "[[hang]]", webhook=receiver.url),
        ]
        until(lambda: 2 == simulator.counts().in_flight)
        pending = [look_up(client, target)["webhook"] for target in targets]

    nothing_yet = {"attempts": 0, "next_attempt_at": None, "trouble": None, "delivered_at": None}
    assert 2 * [{"url": receiver.url, "state": "pending", **nothing_yet}] == pending


def test_a_body_without_a_webhook_has_no_delivery(client):
    assert "webhook" not in ended(client, submit(client))


def test_without_a_secret_a_delivery_is_not_signed(make_app):
    client = make_app(REPLICATE_SIMULATE=1).test_client()
    with receiving() as receiver:
        submit(client, webhook=receiver.url)
        until(lambda: receiver.received)

    assert "webhook-id" in receiver.received[0].headers
    assert "webhook-signature" not in receiver.received[0].headers


def test_a_receiver_that_answered_410_gets_no_further_attempt(make_calling):
    client = make_calling().test_client()
    with receiving(410) as receiver:
        webhook = delivered(client, submit(client, webhook=receiver.url))

    assert ("failed", 1, "it answered 410") == tuple(
        webhook[name] for name in ("state", "attempts", "trouble")
    )
    assert 1 == len(receiver.received)


@pytest.mark.slow
def test_the_next_process_retries_a_failed_delivery_with_the_same_id(make_calling):
    app = make_calling()
    client = app.test_client()
    with receiving(500, 204) as receiver:
        answer = client.post("/generate", json=PICTURE | {"webhook": receiver.url}, headers=USER)
        until(lambda: 1 == look_up(client, answer.json["id"])["webhook"]["attempts"])
        waiting = look_up(client, answer.json["id"])["webhook"]
        app.extensions["service"].close()
        client = make_calling().test_client()
        resumed = look_up(client, answer.json["id"])["webhook"]
        webhook = delivered(client, answer.json["id"])

    assert ("pending", "it answered 500", None) == tuple(
        waiting[name] for name in ("state", "trouble", "delivered_at")
    )
    assert waiting["next_attempt_at"] is not None
    assert waiting == resumed
    assert ("delivered", 2, None) == tuple(webhook[name] for name in ("state", "attempts", "trouble"))
    first, second = receiver.received
    assert answer.json == first.json == second.json
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    is_valid(second.headers, second.body)


def test_an_attempt_interrupted_by_a_restart_is_repeated(make_calling):
    app = make_calling()
    with receiving(None, 204) as receiver:
        target = submit(app.test_client(), webhook=receiver.url)
        until(lambda: receiver.received)
        app.extensions["service"].close()
        webhook = delivered(make_calling().test_client(), target)

    assert ("delivered", 1) == (webhook["state"], webhook["attempts"])
    assert 2 == len(receiver.received)


def test_a_generation_that_ends_after_a_restart_is_delivered(make_calling, simulator):
    app = make_calling(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    with receiving() as one, receiving() as several:
        running = submit(client, "[[hang]]", by=ADMIN, webhook=one.url)
        until(lambda: 1 == simulator.counts().in_flight)
        batch = submit_batch(client, "a", "[[fail]] b", webhook=several.url)
        app.extensions["service"].close()
        assert ([], []) == (one.received, several.received)

        client = make_calling().test_client()
        simulator.finish()
        until(lambda: one.received)
        assert [] == several.received  # it waits for its owner
        ended(client, batch)
        until(lambda: several.received)

    assert (running, True) == tuple(one.received[0].json[name] for name in ("id", "success"))
    assert (batch, 1, 1) == tuple(several.received[0].json[name] for name in ("id", "succeeded", "failed"))


def test_what_is_cancelled_for_its_owner_after_a_restart_is_told_with_its_batch(make_calling, simulator):
    app = make_calling(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    submit(client, "[[hang]]")
    until(lambda: 1 == simulator.counts().in_flight)
    with receiving() as receiver:
        submit_batch(client, "a", "b", webhook=receiver.url)
        target = submit(client, webhook=receiver.url)
        batch = client.get("/generations?limit=2", headers=USER).json["generations"][1]["batch_id"]
        app.extensions["service"].close()
        client = make_calling().test_client()

        client.delete(f"/batches/{batch}", headers=ADMIN)
        client.delete(f"/generations/{target}", headers=ADMIN)
        until(lambda: 2 == len(receiver.received))

    assert {batch, target} == {message.json["id"] for message in receiver.received}


@pytest.mark.slow
@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "https://10.0.0.1/", "https://169.254.169.254/latest",
        "https://[::1]/", "https://localhost/", "http://127.0.0.1:1/", "https://user:pass@example.com/", "", "x",
        "https://", "https://intranet/", "https://example.com/" + "a" * 3000, 5, ["https://example.com"], True,
    ],
)  # fmt: skip
def test_addresses_that_are_private_or_not_https_are_refused_before_anything_is_spent(client, simulator, url):
    items = {"requests": [PICTURE, PICTURE | {"webhook": url}]}

    assert ["webhook"] == fields(client.post("/generate", json=PICTURE | {"webhook": url}, headers=USER))
    assert ["requests[1].webhook"] == fields(client.post("/generate-batch", json=items, headers=USER))
    batch = {"model_name": "flux-dev", "prompts": ["a"], "webhook": url}
    assert ["webhook"] == fields(client.post("/generate-batch", json=batch, headers=USER))
    assert CHECKED == dict(simulator.counts().requests)


def test_in_simulation_this_very_machine_may_be_called_and_no_other_private_one(make_calling):
    client = make_calling().test_client()

    for url in ("http://10.0.0.1/", "http://example.com/", "http://169.254.169.254/", "http://0.0.0.0/"):
        answer = client.post("/generate", json=PICTURE | {"webhook": url}, headers=USER)
        problem(answer, 400, "invalid_request")
