"""`POST /configure`: raises and lowers both limits under load. Invalid requests change nothing."""

import pytest

from tests.support.callers import ADMIN
from tests.support.ndjson import lines, settle, stream
from tests.support.problem_documents import fields, problem


def concurrency(client):
    return client.get("/status").json["concurrency"]


@pytest.mark.parametrize(
    ("asked", "limits"),
    [
        ({"concurrent_limit": 1}, (1, 600)),
        ({"concurrent_limit": 1000}, (1000, 600)),
        ({"requests_per_minute": 1}, (10, 1)),
        ({"requests_per_minute": 60_000}, (10, 60_000)),
        ({"concurrent_limit": 3, "requests_per_minute": 30}, (3, 30)),
        ({"concurrent_limit": 3, "requests_per_minute": None}, (3, 600)),
    ],
)
def test_limits_change_at_once_to_both_ends_of_their_ranges(client, asked, limits):
    answer = client.post("/configure", json=asked, headers=ADMIN)

    assert (200, True) == (answer.status_code, answer.json["success"])
    now = concurrency(client)
    assert now == answer.json["concurrency"]
    assert limits == (now["concurrent_limit"], now["requests_per_minute_limit"])


REFUSED = [
    ({"concurrent_limit": 0}, ["concurrent_limit"]),
    ({"concurrent_limit": 1001}, ["concurrent_limit"]),
    ({"concurrent_limit": -1}, ["concurrent_limit"]),
    ({"concurrent_limit": True}, ["concurrent_limit"]),
    ({"concurrent_limit": 3.5}, ["concurrent_limit"]),
    ({"concurrent_limit": "3"}, ["concurrent_limit"]),
    ({"concurrent_limit": [3]}, ["concurrent_limit"]),
    ({"concurrent_limit": 10**4000}, ["concurrent_limit"]),
    ({"requests_per_minute": 0}, ["requests_per_minute"]),
    ({"requests_per_minute": 60_001}, ["requests_per_minute"]),
    ({"requests_per_minute": 1e5}, ["requests_per_minute"]),
    ({"concurrent_limit": 3, "requests_per_minute": 0}, ["requests_per_minute"]),
    ({"concurrent_limit": 0, "requests_per_minute": 0}, ["concurrent_limit", "requests_per_minute"]),
    ({"concurrent_limit": 3, "rpm": 5}, ["rpm"]),
    ({}, ["body"]),
    ({"concurrent_limit": None}, ["body"]),
    ({"concurrent_limit": None, "requests_per_minute": None}, ["body"]),
    ([], ["body"]),
    ("3", ["body"]),
]


def test_invalid_limits_are_refused_by_field_and_change_nothing(client):
    before = concurrency(client)

    for asked, wrong in REFUSED:
        assert wrong == fields(client.post("/configure", json=asked, headers=ADMIN))
        assert before == concurrency(client)


def test_a_body_that_is_not_json_changes_nothing(client):
    before = concurrency(client)

    problem(
        client.post("/configure", data="concurrent_limit=3", headers=ADMIN), 415, "unsupported_media_type"
    )
    problem(
        client.post("/configure", data=b"{", content_type="application/json", headers=ADMIN),
        400,
        "invalid_json",
    )

    assert before == concurrency(client)


def test_raising_the_limit_admits_waiting_generations_at_once(make_app):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    answer = stream(client, ADMIN, "quick", *["[[hang]]"] * 4)
    busy = concurrency(client)
    assert (1, 3, 0) == (busy["current_concurrent"], busy["waiting"], busy["available_slots"])

    client.post("/configure", json={"concurrent_limit": 3}, headers=ADMIN)

    now = concurrency(client)
    assert (3, 1, 0) == (now["current_concurrent"], now["waiting"], now["available_slots"])
    answer.close()
    settle(app)


def test_lowering_the_limit_cancels_nothing_and_admits_nothing(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=3)
    client = app.test_client()
    answer = stream(client, ADMIN, "quick", *["[[slow=0.3]]"] * 4)

    client.post("/configure", json={"concurrent_limit": 1}, headers=ADMIN)

    now = concurrency(client)
    assert (1, 0) == (now["concurrent_limit"], now["available_slots"])
    *results, summary = lines(answer)
    assert (5, True) == (len(results), summary["success"])
    assert {"succeeded": 5} == dict(simulator.counts().finished)


def test_raising_the_window_admits_generations_that_waited_for_it(make_app):
    app = make_app(REPLICATE_REQUESTS_PER_MINUTE=1)
    client = app.test_client()
    answer = stream(client, ADMIN, "first", "second")
    assert 1 == concurrency(client)["waiting"]

    client.post("/configure", json={"requests_per_minute": 2}, headers=ADMIN)

    *results, summary = lines(answer)
    assert (2, True) == (len(results), summary["success"])
