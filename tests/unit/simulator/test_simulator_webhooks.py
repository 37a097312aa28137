"""Webhooks have the requested events, are signed, and are retried."""

import pytest
from replicate.webhook import Webhooks, WebhookSigningSecret

from tests.unit.simulator.receivers import webhook_fields


def test_only_the_requested_events_are_sent(caller, receiver):
    caller.create(body=webhook_fields(receiver, "completed"))
    assert receiver.statuses() == ["succeeded"]


def test_a_webhook_has_the_prediction_at_the_time_of_its_event(caller, receiver):
    caller.create("[[slow=0.3]]", body=webhook_fields(receiver, "start", "completed"))
    assert receiver.statuses() == ["processing", "succeeded"]


def test_without_a_filter_output_and_completed_are_sent(caller, receiver):
    made = caller.create("[[fail]]", body=webhook_fields(receiver)).json()
    assert made["webhook"] == receiver.url
    assert receiver.statuses() == ["failed"]


def test_the_official_client_accepts_the_signature_of_a_webhook(caller, receiver):
    caller.create(body=webhook_fields(receiver, "completed"))
    receiver.statuses()
    ((headers, body),) = receiver.accepted
    key = caller.get("/v1/webhooks/default/secret").json()["key"]
    assert key.startswith("whsec_")
    assert headers["webhook-signature"].startswith("v1,")
    secret = WebhookSigningSecret(key=key)
    Webhooks.validate(headers=headers, body=body, secret=secret, tolerance=60)


def test_a_refused_webhook_is_retried_with_the_same_id(sim, caller, receiver):
    receiver.statuses_to_send.extend([500, 302])
    caller.create(body=webhook_fields(receiver, "completed"))
    assert receiver.statuses() == ["succeeded"]
    ids = {headers["webhook-id"] for headers in [*receiver.refused, receiver.accepted[0][0]]}
    assert len(receiver.refused) == 2
    assert len(ids) == 1
    assert sim.counts().webhooks_refused == 2


@pytest.mark.parametrize("url", ["http://example.com/hook", "ftp://127.0.0.1", "nonsense", 7])
def test_a_webhook_that_is_not_https_is_refused(caller, url):
    answer = caller.create(body={"webhook": url})
    assert answer.status_code == 422
    assert answer.json()["invalid_fields"][0]["field"] == "webhook"


def test_an_unknown_event_is_refused(caller, receiver):
    assert caller.create(body=webhook_fields(receiver, "started")).status_code == 422
