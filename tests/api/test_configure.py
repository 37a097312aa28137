"""`POST /configure`: raises and lowers both limits under load, and they survive restarts. Invalid requests change
nothing."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from harness.service_process import until
from tests.support.api_client import meanwhile
from tests.support.callers import ADMIN
from tests.support.ndjson import lines, settle, stream
from tests.support.problem_documents import fields, problem


def concurrency(client):
    return client.get("/status").json["concurrency"]


@pytest.mark.parametrize(
    ("body", "limits"),
    [
        ({"concurrent_limit": 1}, (1, 600)),
        ({"concurrent_limit": 1000}, (1000, 600)),
        ({"requests_per_minute": 1}, (10, 1)),
        ({"requests_per_minute": 60_000}, (10, 60_000)),
        ({"concurrent_limit": 3, "requests_per_minute": 30}, (3, 30)),
        ({"concurrent_limit": 3, "requests_per_minute": None}, (3, 600)),
    ],
)
def test_limits_change_at_once_to_both_ends_of_their_ranges(client, body, limits):
    answer = client.post("/configure", json=body, headers=ADMIN)

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
    ([], ["body"]),
    ("3", ["body"]),
]


def test_invalid_limits_are_refused_by_field_and_change_nothing(client):
    before = concurrency(client)

    for body, wrong in REFUSED:
        assert wrong == fields(client.post("/configure", json=body, headers=ADMIN))
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
    answer = stream(client, ADMIN, "quick", *["[[hang]]"] * 4)

    client.post("/configure", json={"concurrent_limit": 1}, headers=ADMIN)

    now = concurrency(client)
    assert (1, 0) == (now["concurrent_limit"], now["available_slots"])
    *results, summary = meanwhile(simulator.finish, lambda: list(lines(answer)))
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


def limits(client):
    now = concurrency(client)
    return now["concurrent_limit"], now["requests_per_minute_limit"]


def configured(client):
    return client.get("/status", headers=ADMIN).json["configured_limits"]


def configure(client, **body):
    return client.post("/configure", json=body, headers=ADMIN).status_code


@pytest.mark.every_database
def test_a_configured_limit_survives_restarts_and_wins_over_the_environment_until_null(restarted):
    assert 200 == configure(restarted(), concurrent_limit=3)

    for environment in (10, 20):
        client = restarted(REPLICATE_CONCURRENT_LIMIT=environment, REPLICATE_REQUESTS_PER_MINUTE=700)
        assert ((3, 700), {"concurrent_limit": 3}) == (limits(client), configured(client))

    for _ in range(2):
        assert 200 == configure(client, concurrent_limit=None)
        assert ((20, 700), {}) == (limits(client), configured(client))
    client = restarted()
    assert ((10, 600), {}) == (limits(client), configured(client))


def test_a_body_with_one_limit_leaves_the_other_configured(restarted):
    client = restarted()
    configure(client, concurrent_limit=3, requests_per_minute=30)
    configure(client, concurrent_limit=4)
    assert (4, 30) == limits(client)

    configure(client, requests_per_minute=None)

    assert (4, 600) == limits(client)
    assert {"concurrent_limit": 4} == configured(restarted())


def test_only_the_admin_sees_which_limits_are_configured(client):
    assert {} == configured(client)
    configure(client, requests_per_minute=30)

    assert {"requests_per_minute": 30} == configured(client)
    assert "configured_limits" not in client.get("/status").json


@pytest.mark.parametrize("body", [{"concurrent_limit": 3}, {"requests_per_minute": None}], ids=str)
def test_nothing_changes_while_the_ledger_cannot_be_written(restarted, tmp_path, body):
    client = restarted()
    configure(client, requests_per_minute=30)
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        refused = [client.post("/configure", json=body, headers=ADMIN) for _ in range(2)]
        assert ((10, 30), {"requests_per_minute": 30}) == (limits(client), configured(client))
        other.execute("ROLLBACK")

    for each in refused:
        assert "locked" in problem(each, 500, "internal", retryable=True)["detail"]
    until(lambda: client.get("/health").status_code == 200)
    assert {"requests_per_minute": 30} == configured(restarted())
    assert 200 == configure(restarted(), **body)


@pytest.mark.every_database
def test_after_changes_at_the_same_time_the_ledger_has_the_limits_in_force(restarted):
    client = restarted()
    with ThreadPoolExecutor(8) as callers:
        changes = [
            {"concurrent_limit": number, "requests_per_minute": None if number % 3 else number}
            for number in range(1, 33)
        ]
        statuses = callers.map(lambda body: configure(client.application.test_client(), **body), changes)
    assert [200] * 32 == list(statuses)

    in_force = limits(client)
    assert in_force == limits(restarted())


def write_meta(path, **values):
    """Write rows of `meta`, as an operator might."""
    with closing(sqlite3.connect(path / "ledger.db")) as ledger, ledger:
        for name, value in values.items():
            ledger.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


@pytest.mark.parametrize(
    "value",
    ["", "many", "3.5", b"\xff", 0, 1001, -1, 2.5, "9" * 5000, 2**62, "3\nx", "{}"],
    ids=lambda value: repr(value)[:12],
)
def test_a_kept_limit_that_is_not_valid_is_logged_and_ignored(restarted, tmp_path, capfd, value):
    restarted()
    write_meta(tmp_path, concurrent_limit=value, requests_per_minute="30")
    capfd.readouterr()

    client = restarted(LOG_LEVEL="warning", LOG_FORMAT="json")

    assert ((10, 30), {"requests_per_minute": 30}) == (limits(client), configured(client))
    ignored = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert ["concurrent_limit"] == [each["limit"] for each in ignored if each["event"] == "limit_ignored"]
    assert 200 == configure(client, concurrent_limit=None)
    assert (20, 30) == limits(restarted(REPLICATE_CONCURRENT_LIMIT=20))


def test_a_number_that_an_operator_wrote_into_the_ledger_counts(restarted, tmp_path):
    restarted()
    write_meta(tmp_path, concurrent_limit=3, requests_per_minute=" 30\n")

    assert (3, 30) == limits(restarted())


def test_limits_of_the_simulator_do_not_apply_to_replicate(restarted):
    configure(restarted(REPLICATE_SIMULATE=1), concurrent_limit=1000)
    client = restarted()
    assert (10, 600) == limits(client)
    configure(client, concurrent_limit=5)

    assert (1000, 600) == limits(restarted(REPLICATE_SIMULATE=1))
    assert (5, 600) == limits(restarted())


def test_a_configured_limit_is_in_force_before_resumed_work_is_admitted(restarted, simulator):
    client = restarted(REPLICATE_CONCURRENT_LIMIT=1)
    configure(client, concurrent_limit=2)
    later = ADMIN | {"Prefer": "respond-async"}
    prompts = {"model_name": "flux-dev", "prompts": ["[[hang]]"] * 6}
    client.post("/generate-batch", json=prompts, headers=later)
    until(lambda: simulator.counts().in_flight == 2)

    client = restarted(REPLICATE_CONCURRENT_LIMIT=5)
    until(lambda: concurrency(client)["waiting"] == 4)

    assert 2 == simulator.counts().creations_accepted
