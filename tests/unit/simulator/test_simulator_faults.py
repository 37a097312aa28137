"""Faults affect the selected requests, as often as injected."""

import pytest
import requests

from tests.support.api_client import meanwhile


def test_a_status_fault_does_not_handle_the_request(sim, caller):
    sim.inject(on="create", times=2, status=503)
    assert [caller.create().status_code for _ in range(3)] == [503, 503, 201]
    assert sim.counts().creations_accepted == 1
    assert sim.counts().refusals == {503: 2}


def test_a_status_fault_has_the_injected_headers_and_body(sim, caller):
    sim.inject(status=429, headers={"Retry-After": "3"}, body=["slow down"])
    answer = caller.create()
    assert answer.headers["Retry-After"] == "3"
    assert answer.json() == ["slow down"]


@pytest.mark.parametrize("status", [401, 402, 404, 422, 429, 500, 502, 503, 504, 599])
def test_a_status_fault_without_a_body_has_a_realistic_one(sim, caller, status):
    sim.inject(status=status)
    answer = caller.get("/v1/account")
    assert answer.status_code == status
    assert answer.json()["status"] == status
    assert answer.json()["detail"]


def test_a_reset_before_leaves_no_prediction(sim, caller):
    sim.inject(on="create", reset="before")
    with pytest.raises(requests.ConnectionError):
        caller.create()
    assert sim.counts().creations_accepted == 0
    assert sim.counts().answers_lost == 0


def test_a_reset_after_leaves_a_prediction_without_a_response(sim, caller):
    sim.inject(on="create", reset="after")
    with pytest.raises(requests.ConnectionError):
        caller.create("lost")
    assert [made.input for made in sim.predictions()] == [{"prompt": "lost"}]
    assert sim.counts().answers_lost == 1


def test_a_hang_handles_the_request_without_a_response(sim, caller):
    sim.inject(on="create", hang=0.1)
    with pytest.raises(requests.ConnectionError):
        caller.create()
    assert sim.counts().creations_accepted == 1
    assert sim.counts().answers_lost == 1


def test_a_delay_sends_the_right_response_late(sim, caller):
    sim.inject(on="create", delay=0.2)
    made = caller.create()
    assert made.json()["status"] == "starting"
    assert caller.status(made.json()) == "succeeded"


def test_a_delayed_response_can_be_sent_sooner(sim, caller):
    sim.inject(on="create", delay=3600)
    made = meanwhile(sim.respond, lambda: caller.create("[[hang]]"))
    assert caller.status(made.json()) == "processing"


def test_a_garbage_response_is_a_success_that_is_not_json(sim, caller):
    sim.inject(on="create", garbage=True)
    answer = caller.create()
    assert answer.status_code == 201
    with pytest.raises(requests.JSONDecodeError):
        answer.json()
    assert sim.counts().creations_accepted == 1


def test_a_truncated_response_is_shorter_than_its_content_length(sim, caller):
    sim.inject(on="create", truncate=True)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        caller.create()
    assert sim.counts().creations_accepted == 1
    assert sim.counts().answers_lost == 1


def test_fields_of_a_response_can_be_dropped_and_set(sim, caller):
    made = caller.create().json()
    path = f"/v1/predictions/{made['id']}"
    sim.inject(on="get", drop=["version", "logs"])
    sim.inject(on="get", set={"status": "aborted", "error": ["a", "list"]})
    dropped, changed, plain = (caller.get(path).json() for _ in range(3))
    assert {"version", "logs"} == set(plain) - set(dropped)
    assert (changed["status"], changed["error"]) == ("aborted", ["a", "list"])
    assert plain["error"] is None


def test_an_edit_of_a_list_edits_each_result(sim, caller):
    caller.create()
    sim.inject(on="list", drop=["input"])
    assert "input" not in caller.get("/v1/predictions").json()["results"][0]


def test_a_fault_affects_only_its_kind_and_token_and_after_its_count(sim, caller_with):
    sim.inject(on="create", after=1, token="r8_a", status=500)
    a, b = caller_with("r8_a"), caller_with("r8_b")
    assert a.get("/v1/account").status_code == 200
    assert [b.create().status_code for _ in range(3)] == [201] * 3
    assert [a.create().status_code for _ in range(3)] == [201, 500, 201]


def test_limits_apply_before_faults(sim, caller):
    sim.account("r8_tester", creations_per_minute=1)
    caller.create()
    sim.inject(on="create", status=500)
    assert caller.create().status_code == 429
    assert len(caller.get("/simulator/faults").json()) == 1


def test_faults_are_injected_listed_and_cleared_over_http(caller):
    orders = [{"on": "get", "times": 2, "status": 500}, {"reset": "after", "token": "r8_secret"}]
    assert caller.post("/simulator/faults", json=orders).status_code == 200
    listed = caller.get("/simulator/faults")
    assert listed.json() == [
        {"on": "get", "times": 2, "after": 0, "status": 500},
        {"on": "any", "times": 1, "after": 0, "reset": "after"},
    ]
    assert "r8_secret" not in listed.text
    assert caller.request("DELETE", "/simulator/faults").json() == []
    assert caller.get("/v1/account").status_code == 200


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"status": 503, "reset": "after"},
        {"on": "everything", "status": 503},
        {"times": 0, "status": 503},
        {"after": -1, "status": 503},
        {"status": 99},
        {"reset": "during"},
        {"hang": "long"},
        {"garbage": False},
        {"drop": "version"},
        {"set": ["status"]},
        {"explode": True},
        {"reset": "after", "body": {}},
        {"token": 7, "status": 503},
        {"status": 503, "headers": {"Retry-After": 3}},
    ],
)
def test_an_invalid_fault_is_refused_with_its_whole_list(sim, caller, order):
    with pytest.raises(ValueError, match=r"\w+ must be|exactly one|go with status"):
        sim.inject(**order)
    answer = caller.post("/simulator/faults", json=[{"status": 500}, order])
    assert answer.status_code == 400
    assert caller.get("/simulator/faults").json() == []


def test_requests_in_a_stall_are_served_afterwards_even_without_their_callers(sim, caller):
    assert 200 == caller.post("/simulator/stall", json={"seconds": 1}).status_code
    with pytest.raises(requests.ReadTimeout):
        caller.session.post(
            f"{caller.url}/v1/models/black-forest-labs/flux-dev/predictions",
            json={"input": {"prompt": "a fox"}},
            timeout=0.1,
        )
    assert 0 == sim.counts().creations_accepted
    listed = caller.get("/v1/predictions").json()["results"]
    assert 200 == caller.get("/v1/account").status_code
    assert 1 == sim.counts().creations_accepted
    assert len(listed) <= 1


@pytest.mark.parametrize(
    "wrong", [{}, {"seconds": -1}, {"seconds": True}, {"seconds": "1"}, {"minutes": 1}, []]
)
def test_a_stall_without_valid_seconds_is_refused(caller, wrong):
    assert 400 == caller.post("/simulator/stall", json=wrong).status_code
