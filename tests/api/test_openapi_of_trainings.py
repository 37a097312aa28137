"""Answers about trainings match the OpenAPI document: those of the service, and of the Replicate door."""

import io
import json
import re

import pytest

from errors import InvalidRequest
from harness.service_process import until
from parsing.trainings import parse_training
from tests.support.callers import ADMIN, SERVER_TOKEN, USER
from tests.support.declarations import CONTEXT
from tests.support.documented import CLOSED, conforms, described, validator
from tests.support.trainers import trainer
from tests.support.training_calls import OSTRIS, train, trained, zip_of

ONE = "/trainings/{target}"
DOOR = "/replicate/v1"
LEAST = {"trainer": OSTRIS, "destination": "dog", "images": "https://a.com/b.zip"}


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        ({}, True),
        ({"create_destination": True}, True),
        ({"create_destination": {"visibility": "public", "hardware": "gpu-t4"}}, True),
        ({"create_destination": {"visibility": "secret"}}, False),
        ({"create_destination": "yes"}, False),
        ({"trigger_word": "TOK", "timeout": 60, "metadata": {"a": "b"}, "max_cost_usd": 3}, True),
        ({"trigger_word": None, "timeout": None, "input": None, "webhook": None, "dry_run": None}, True),
        ({"trigger_word": "T" * 101}, False),
        ({"timeout": 59}, False),
        ({"timeout": 86_401}, False),
        ({"input": []}, False),
        ({"steps": 100}, False),
        ({"images": None}, False),
        ({"destination": None}, False),
        ({"trainer": None}, False),
    ],
)
def test_the_schema_and_validation_accept_the_same_bodies(change, is_valid):
    body = {**LEAST, **change}
    try:
        parse_training(body, trainer(), CONTEXT)
        accepted = True
    except InvalidRequest:
        accepted = False

    assert (is_valid, is_valid) == (accepted, validator("TrainingRequest").is_valid(body))


@pytest.fixture
def client(make_app):
    return make_app().test_client()


def test_trainings_match_the_document(client, simulator):
    forecast = conforms(train(client, dry_run=True), "/trainings")
    assert 200 == forecast.status_code
    wrong = conforms(train(client, **{"input.steps": "0", "x": "1"}), "/trainings")
    assert 400 == wrong.status_code
    secret = {"input.hf_token": "hf_verysecret"}
    running = conforms(train(client, trigger_word="[[hang]]", metadata='{"a": "b"}', **secret), "/trainings")
    assert 202 == running.status_code
    where = running.headers["Location"]
    until(lambda: client.get(where, headers=ADMIN).json.get("logs"))
    conforms(client.get(where, headers=ADMIN), ONE, "get")
    conforms(client.get("/status"), "/status", "get")
    conforms(client.delete(where, headers=ADMIN), ONE, "delete")
    failed = train(client, trigger_word="[[fail]]").json["id"]
    trained(client, failed)
    done = train(client, webhook="https://a.invalid/b").json["id"]
    weights = trained(client, done)["weights"].removeprefix("http://localhost")
    for each in (failed, done):
        for headers in (ADMIN, USER, {}):
            conforms(client.get(f"/trainings/{each}", headers=headers), ONE, "get")
    conforms(client.get("/trainings?limit=2", headers=ADMIN), "/trainings", "get")
    conforms(client.get("/trainings?limit=x", headers=ADMIN), "/trainings", "get")
    for headers in (ADMIN, ADMIN | {"Range": "bytes=0-9"}):
        with client.get(weights, headers=headers) as kept:
            assert "*/*" in described(kept, f"{ONE}/weights/{{name}}", "get")
    conforms(client.get(weights, headers=USER), f"{ONE}/weights/{{name}}", "get")
    path = f"/trainings/{done}/weights"
    assert 204 == client.delete(path, headers=ADMIN).status_code
    conforms(client.delete(path, headers=ADMIN), f"{ONE}/weights", "delete")


def streamed(answer, on_event=lambda name: None):
    """The events of a stream, which are read to its end. `on_event` gets the name of each."""

    def read(chunks):
        for chunk in chunks:
            yield chunk
            for name in re.findall(rb"event: (\w+)", chunk):
                on_event(name.decode())

    answer.response = read(answer.response)
    found = re.findall(r"event: (\w+)\ndata: (.+)\n\n", answer.get_data(as_text=True))
    return [{"event": name, "data": json.loads(data)} for name, data in found]


def test_events_of_trainings_match_the_document(client, simulator):
    where = train(client, trigger_word="[[hang]]").headers["Location"]
    until(lambda: client.get(where, headers=ADMIN).json["status"] == "running")

    seen = set()

    def end_once_shown(name):
        seen.add(name)
        if {"logs", "progress"} <= seen:
            simulator.finish()

    events = streamed(client.get(f"{where}/events", headers=ADMIN), end_once_shown)
    again = streamed(client.get(f"{where}/events", headers=ADMIN))

    assert {"queued", "running", "progress", "logs", "done"} == {each["event"] for each in events}
    assert ["queued", "running", "done"] == [each["event"] for each in again]
    for each in (*events, *again):
        assert [] == [error.message for error in validator("TrainingEvent", CLOSED).iter_errors(each)]
    conforms(client.get(f"{where}/events", headers=USER), f"{ONE}/events", "get")


def test_trainings_at_the_door_match_the_document(client, simulator):
    simulator.account(SERVER_TOKEN, username="team")
    route = "/models/{owner}/{name}/versions/{version}/trainings"

    def request(method, path, route, **how):
        answer = client.open(f"{DOOR}{path}", method=method, headers=ADMIN, **how)
        conforms(answer, f"{DOOR}{route}", method.lower())
        return answer

    model = {"owner": "team", "name": "dog", "visibility": "private", "hardware": "cpu"}
    for _ in range(2):
        request("POST", "/models", "/models", json=model)
    file = {"content": (io.BytesIO(zip_of()), "dogs.zip")}
    upload = client.post(f"{DOOR}/files", data=file, headers=ADMIN)
    body = {"destination": "team/dog", "input": {"input_images": upload.json["urls"]["get"]}}
    path = f"/models/{OSTRIS}/versions/hidden/trainings"
    made = request("POST", path, route, json=body)
    assert 201 == made.status_code
    request("POST", path, route, json={**body, "destination": "team/cat"})
    request("POST", path, route, json={})
    one = f"/trainings/{made.json['id']}"
    until(lambda: client.get(f"{DOOR}{one}", headers=ADMIN).json["status"] == "succeeded")
    request("GET", one, "/trainings/{target}")
    request("POST", f"{one}/cancel", "/trainings/{target}/cancel")
    request("GET", "/trainings", "/trainings")
    request("GET", "/trainings/trn_x", "/trainings/{target}")
