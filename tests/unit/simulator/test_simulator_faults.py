"""Faults strike whom they were ordered for, as often as ordered, and do what they say."""

import pytest
import requests


def test_a_status_is_answered_without_handling_the_request(sim, caller):
    sim.inject(on="create", times=2, status=503)
    assert [caller.create().status_code for _ in range(3)] == [503, 503, 201]
    assert sim.counts().creations_accepted == 1
    assert sim.counts().refusals == {503: 2}


def test_a_status_comes_with_the_headers_and_body_ordered(sim, caller):
    sim.inject(status=429, headers={"Retry-After": "3"}, body=["slow down"])
    answer = caller.create()
    assert answer.headers["Retry-After"] == "3"
    assert answer.json() == ["slow down"]


@pytest.mark.parametrize("status", [401, 402, 404, 422, 429, 500, 502, 503, 504, 599])
def test_a_status_alone_gets_a_believable_body(sim, caller, status):
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


def test_a_reset_after_leaves_a_prediction_nobody_was_told_of(sim, caller):
    sim.inject(on="create", reset="after")
    with pytest.raises(requests.ConnectionError):
        caller.create("lost")
    assert [made.input for made in sim.predictions()] == [{"prompt": "lost"}]
    assert sim.counts().answers_lost == 1


def test_a_hang_handles_and_never_answers(sim, caller):
    sim.inject(on="create", hang=0.1)
    with pytest.raises(requests.ConnectionError):
        caller.create()
    assert sim.counts().creations_accepted == 1
    assert sim.counts().answers_lost == 1


def test_a_delay_answers_late_but_right(sim, caller):
    sim.inject(on="create", delay=0.2)
    made = caller.create()
    assert made.json()["status"] == "starting"
    assert caller.status(made.json()) == "succeeded"


def test_garbage_is_a_success_that_is_not_json(sim, caller):
    sim.inject(on="create", garbage=True)
    answer = caller.create()
    assert answer.status_code == 201
    with pytest.raises(requests.JSONDecodeError):
        answer.json()
    assert sim.counts().creations_accepted == 1


def test_a_truncated_answer_is_shorter_than_it_promised(sim, caller):
    sim.inject(on="create", truncate=True)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        caller.create()
    assert sim.counts().creations_accepted == 1
    assert sim.counts().answers_lost == 1


def test_fields_can_be_dropped_from_an_answer_and_set_in_it(sim, caller):
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


def test_a_fault_strikes_only_its_kind_of_request_its_token_and_after_its_count(sim, caller_with):
    sim.inject(on="create", after=1, token="r8_a", status=500)
    a, b = caller_with("r8_a"), caller_with("r8_b")
    assert a.get("/v1/account").status_code == 200
    assert [b.create().status_code for _ in range(3)] == [201] * 3
    assert [a.create().status_code for _ in range(3)] == [201, 500, 201]


def test_limits_refuse_before_faults_strike(sim, caller):
    sim.account("r8_tester", creations_per_minute=1)
    caller.create()
    sim.inject(on="create", status=500)
    assert caller.create().status_code == 429
    assert len(caller.get("/simulator/faults").json()) == 1


def test_faults_are_ordered_listed_and_called_off_over_http(caller):
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
def test_an_order_that_makes_no_sense_is_refused_and_none_of_its_list_is_taken(sim, caller, order):
    with pytest.raises(ValueError, match=r"\w+ must be|exactly one|go with status"):
        sim.inject(**order)
    answer = caller.post("/simulator/faults", json=[{"status": 500}, order])
    assert answer.status_code == 400
    assert caller.get("/simulator/faults").json() == []


def test_in_a_stall_nothing_is_answered_and_what_came_is_served_afterwards_though_its_sender_is_gone(
    sim, caller
):
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
def test_a_stall_of_no_seconds_is_refused(caller, wrong):
    assert 400 == caller.post("/simulator/stall", json=wrong).status_code
