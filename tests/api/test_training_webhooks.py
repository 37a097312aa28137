"""Webhooks of trainings: those to their callers, and those of Replicate that end them."""

import json

import pytest

from harness.service_process import free_port, until
from simulator.webhooks import signed
from tests.support.outbox_wiring import SECRET, is_valid
from tests.support.served_in_process import online, receiving
from tests.support.training_calls import OSTRIS, train, trained, training

FORGED = {"version": f"acme/forged:{'1' * 64}", "weights": "https://replicate.delivery/x.tar"}


def test_the_end_of_a_training_is_posted_as_it_can_be_read_and_signed(make_app):
    client = make_app(REPLICATE_SIMULATE=1, WEBHOOK_SECRET=SECRET).test_client()
    with receiving() as receiver:
        target = train(client, webhook=f"{receiver.url}/here", metadata='{"shop": "7"}').json["id"]
        until(lambda: training(client, target).get("webhook", {}).get("state") == "delivered")
        body = trained(client, target)

    (message,) = receiver.received
    delivery = body.pop("webhook")
    assert (body, "7") == (message.json, body["metadata"]["shop"])
    assert "delivered" == delivery["state"]
    is_valid(message.headers, message.body)


@pytest.fixture
def running(make_app, simulator):
    """A service that the simulator can reach, with a training that runs."""
    port = free_port()
    app = make_app(REPLICATE_SIMULATE=1, PUBLIC_URL=f"http://127.0.0.1:{port}")
    with online(app, port):
        client = app.test_client()
        target = train(client, trigger_word="[[hang]]").json["id"]
        until(lambda: training(client, target)["status"] == "running")
        yield client, target, simulator.trainings()[0]


def test_a_training_that_replicate_reports_ends_without_a_poll(running, simulator):
    client, target, _ = running
    simulator.inject(on="training", times=1000, status=503)
    simulator.finish()
    assert "succeeded" == trained(client, target)["status"]


def test_a_message_that_replicate_has_not_signed_ends_nothing(running, simulator):
    client, target, made = running
    body = {"id": made.id, "model": OSTRIS, "status": "succeeded", "output": FORGED, "input": {}}
    path, content = f"/webhooks/replicate?generation={target}&attempt=1", json.dumps(body).encode()
    secret = simulator.server.state.webhooks.secret
    others = signed(content, message="msg_1", secret=secret("r8_another"))
    for headers in ({}, others):
        assert 401 == client.post(path, data=content, headers=headers).status_code
    assert "running" == training(client, target)["status"]
