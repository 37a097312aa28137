"""Generations and batches by id, the list of a caller, and cancellation."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.service_process import until
from parsing.queries import cursor
from tests.support.api_client import (
    ASYNC,
    PICTURE,
    ended,
    look_up,
    meanwhile,
    picture,
    state,
    submit,
    submit_batch,
)
from tests.support.callers import ADMIN, USER
from tests.support.ndjson import lines, settle, stream
from tests.support.problem_documents import fields, problem

OTHER = {"X-Replicate-API-Key": "r8_other"}


def listed(client, query="", *, by=USER):
    answer = client.get(f"/generations{query}", headers=by)
    assert 200 == answer.status_code, answer.json
    return answer.json


def prompts(client, query="", *, by=USER):
    return [each["prompt"] for each in listed(client, query, by=by)["generations"]]


# ── One


def test_unfinished_work_shows_an_estimate_and_queued_work_its_place(make_app, simulator):
    client = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client()
    running = submit(client, "[[hang]]")
    until(lambda: "running" == state(client, running))
    waiting = [submit(client, f"{number}") for number in range(3)]

    at_work, *in_line = (look_up(client, target) for target in (running, *waiting))
    assert (running, "running", simulator.predictions()[0].id) == (
        at_work["id"],
        at_work["status"],
        at_work["prediction_id"],
    )
    assert at_work["estimated_seconds"] > 0
    assert {"place", "success", "output", "error"}.isdisjoint(at_work)
    assert ["queued"] * 3 == [each["status"] for each in in_line]
    assert [1, 2, 3] == [each["place"] for each in in_line]
    estimates = [each["estimated_seconds"] for each in in_line]
    assert sorted(estimates) == estimates
    for target in (running, *waiting):
        client.delete(f"/generations/{target}", headers=USER)


@pytest.mark.slow
def test_a_stall_shows_in_the_status_and_a_creation_in_doubt_in_the_generation(client, simulator):
    simulator.inject(on="create", reset="after")
    simulator.inject(on="list", times=1000, status=502)
    target = submit(client, "a fox")
    until(lambda: look_up(client, target).get("creation_in_doubt"))
    waiting = submit(client, "a hare")
    until(lambda: client.get("/status").json["upstream"]["stalled"])

    assert {"status": "queued"}.items() <= look_up(client, waiting).items()
    assert "creation_in_doubt" not in look_up(client, waiting)
    upstream = client.get("/status").json["upstream"]
    assert (1, None) == (upstream["creations_in_doubt"], upstream["back_at"])
    assert upstream["stalled_at"].endswith("Z")

    simulator.reset()
    until(lambda: client.get("/status").json["upstream"]["back_at"])
    assert "creation_in_doubt" not in ended(client, target)
    assert {"stalled": False, "creations_in_doubt": 0}.items() <= client.get("/status").json[
        "upstream"
    ].items()


def test_a_failed_generation_shows_its_error(client):
    target = submit(client, "[[nsfw]]")

    result = ended(client, target)
    assert (False, "failed", "content_refused") == (
        result["success"],
        result["status"],
        result["error"]["code"],
    )


def test_work_is_not_found_by_callers_other_than_its_owner_and_the_admin(client):
    targets = [submit(client), submit_batch(client, "a")]

    for target in targets:
        ended(client, target)
        kind = "generations" if target.startswith("gen") else "batches"
        addresses = [f"/{kind}/{target}"] + [f"/{kind}/{target}/events"] * (kind == "generations")
        for address in addresses:
            problem(client.get(address, headers=OTHER), 404, "not_found")
            problem(client.get(address), 401, "unauthenticated")
            with client.get(address, headers=ADMIN) as seen:
                assert 200 == seen.status_code
        problem(client.delete(addresses[0], headers=OTHER), 404, "not_found")
        problem(client.delete(addresses[0]), 401, "unauthenticated")
        answers = [client.get(f"/{kind}/{each}", headers=OTHER) for each in (target, target[:-1] + "x")]
        details = [answer.json["detail"] for answer in answers]
        assert details[0] == details[1]
    assert [] == listed(client, by=OTHER)["generations"]


@pytest.mark.parametrize(
    "target",
    [
        "gen_",
        "gen_0",
        "batch_0",
        "gen_%00",
        "x",
        "..",
        "gen_' OR 1=1 --",
        "gen_" + "a" * 5000,
        "GEN_0",
        "ge%C3%A9n",
    ],
)
def test_an_invalid_id_is_not_found(client, target):
    for kind in ("generations", "batches"):
        for by in (USER, ADMIN):
            problem(client.get(f"/{kind}/{target}", headers=by), 404, "not_found")
            problem(client.delete(f"/{kind}/{target}", headers=by), 404, "not_found")
    problem(client.get(f"/generations/{target}/events", headers=USER), 404, "not_found")


def test_generations_and_batches_are_not_found_under_each_others_path(client):
    one, several = submit(client), submit_batch(client, "a", "b")

    for address in (f"/batches/{one}", f"/generations/{several}"):
        problem(client.get(address, headers=USER), 404, "not_found")
        problem(client.delete(address, headers=USER), 404, "not_found")
    problem(client.get(f"/generations/{several}/events", headers=USER), 404, "not_found")


def test_the_admin_may_look_up_work_without_a_replicate_token(make_app):
    app = make_app(REPLICATE_API_TOKEN="")
    client = app.test_client()
    target, batch = submit(client), submit_batch(client, "[[hang]]")
    ended(client, target)

    assert "succeeded" == state(client, target, by=ADMIN)
    assert [] == listed(client, by=ADMIN)["generations"]
    assert 1 == client.get("/usage", headers=ADMIN).json["total"]["generations"]
    with client.get(f"/generations/{target}/events", headers=ADMIN) as stream:
        assert b"event: done" in stream.data
    assert 1 == client.delete(f"/batches/{batch}", headers=ADMIN).json["failed"]


# ── Batches


def test_a_running_batch_shows_its_counts_and_the_results_so_far(make_app, simulator):
    client = make_app(REPLICATE_CONCURRENT_LIMIT=2).test_client()
    target = submit_batch(client, "[[hang]] a", "b", "[[fail]] c", "[[hang]] d", "e", by=ADMIN)

    until(lambda: {"succeeded", "failed"} < look_up(client, target, by=ADMIN)["counts"].keys())
    until(lambda: 2 == look_up(client, target, by=ADMIN)["counts"].get("running"))
    batch = look_up(client, target, by=ADMIN)

    assert {"running": 2, "succeeded": 1, "failed": 1, "queued": 1} == batch["counts"]
    assert ("running", 5, 1, 1) == tuple(batch[name] for name in ("status", "total", "succeeded", "failed"))
    assert [1, 2] == [item["index"] for item in batch["results"]]
    assert [True, False] == [item["success"] for item in batch["results"]]
    assert "success" not in batch
    assert batch["estimated_seconds"] > 0
    assert 1 == batch["place"]
    over = client.delete(f"/batches/{target}", headers=ADMIN).json
    assert ("completed", False, 1, 4) == tuple(
        over[name] for name in ("status", "success", "succeeded", "failed")
    )
    assert [0, 1, 2, 3, 4] == [item["index"] for item in over["results"]]


def test_a_batch_of_queued_items_is_queued(make_app, simulator):
    client = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client()
    running = submit(client, "[[hang]]")
    until(lambda: 1 == simulator.counts().in_flight)

    target = submit_batch(client, "a", "b")

    batch = look_up(client, target)
    assert ("queued", {"queued": 2}, 1, []) == tuple(
        batch[name] for name in ("status", "counts", "place", "results")
    )
    for address in (f"/batches/{target}", f"/generations/{running}"):
        client.delete(address, headers=USER)


def test_a_later_get_of_a_batch_and_its_items_returns_the_same_bodies(client):
    body = {"model_name": "flux-dev", "prompts": ["a", "[[fail]] b"]}
    answered = client.post("/generate-batch", json=body, headers=USER).json

    later = look_up(client, answered["id"])

    assert answered == {name: later[name] for name in answered}
    assert ("completed", {"succeeded": 1, "failed": 1}) == (later["status"], later["counts"])
    for item in answered["results"]:
        index = item.pop("index")
        assert answered["id"] == item["batch_id"]
        assert item == look_up(client, item["id"]), index


# ── Cancelled


def test_cancelling_running_work_cancels_at_replicate_and_a_second_cancel_changes_nothing(client, simulator):
    target = submit(client, "[[hang]]")
    until(lambda: "running" == state(client, target))

    first = client.delete(f"/generations/{target}", headers=USER)
    second = client.delete(f"/generations/{target}", headers=USER)

    assert (200, "canceled", False) == (first.status_code, first.json["status"], first.json["success"])
    assert first.json == second.json == look_up(client, target)
    assert ["canceled"] == [each.status for each in simulator.predictions()]
    assert 1 == simulator.counts().requests["cancel"]


def test_cancelling_queued_work_costs_nothing(make_app, simulator):
    client = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client()
    running = submit(client, "[[hang]]")
    until(lambda: 1 == simulator.counts().in_flight)
    target = submit(client)

    answered = client.delete(f"/generations/{target}", headers=USER).json

    assert ("canceled", 0, None) == (answered["status"], answered["cost_usd"], answered["prediction_id"])
    assert 1 == simulator.counts().creations_accepted
    client.delete(f"/generations/{running}", headers=USER)


def test_cancelling_a_pending_creation_cancels_its_prediction_when_the_answer_comes(client, simulator):
    simulator.inject(on="create", delay=30)
    target = submit(client, "[[hang]]")
    until(lambda: 1 == simulator.counts().in_flight)

    answered = meanwhile(
        simulator.respond, partial(client.delete, f"/generations/{target}", headers=USER)
    ).json

    assert "canceled" == answered["status"]
    assert {"canceled": 1} == dict(simulator.counts().finished)


def test_cancelling_ended_work_changes_nothing(client, simulator):
    for prompt in ("a", "[[fail]]"):
        target = submit(client, prompt)
        before = ended(client, target)

        answer = client.delete(f"/generations/{target}", headers=USER)

        assert (200, before) == (answer.status_code, answer.json)
    assert "cancel" not in simulator.counts().requests


def test_simultaneous_cancels_cancel_once(app, client, simulator):
    target = submit(client, "[[hang]]")
    until(lambda: "running" == state(client, target))
    with ThreadPoolExecutor(8) as callers:

        def cancel(_):
            return app.test_client().delete(f"/generations/{target}", headers=USER).json

        answered = list(callers.map(cancel, range(8)))

    assert all(answered[0] == each for each in answered)
    assert "canceled" == answered[0]["status"]
    assert 1 == simulator.counts().requests["cancel"]


def test_the_admin_may_cancel_a_users_work(client, simulator):
    target = submit(client, "[[hang]]")
    until(lambda: "running" == state(client, target))

    assert "canceled" == client.delete(f"/generations/{target}", headers=ADMIN).json["status"]
    assert {"canceled": 1} == dict(simulator.counts().finished)


def test_an_item_of_a_batch_can_be_cancelled_by_itself(client, simulator):
    target = submit_batch(client, "[[hang]] a", "[[hang]] b")
    until(lambda: 2 == look_up(client, target)["counts"].get("running"))
    first, _ = client.get("/generations?state=running", headers=USER).json["generations"][::-1]

    client.delete(f"/generations/{first['id']}", headers=USER)
    simulator.finish()

    batch = ended(client, target)
    assert ["canceled", "succeeded"] == [item["status"] for item in batch["results"]]


def test_a_waiting_caller_is_notified_when_another_cancels(app, client):
    with stream(client, USER, "quick", "[[hang]]") as answer:
        reader = lines(answer)
        target = next(reader)["batch_id"]
        client.delete(f"/batches/{target}", headers=ADMIN)
        assert [("canceled", 1), (None, None)] == [(line.get("status"), line.get("index")) for line in reader]
    settle(app)


def by_id(client, batch, item):
    client.get(f"/generations/{item}", headers=USER)


def as_the_admin(client, batch, item):
    client.get(f"/generations/{item}", headers=ADMIN)


def its_events(client, batch, item):
    client.get(f"/generations/{item}/events", headers=USER).close()


def its_batch(client, batch, item):
    client.get(f"/batches/{batch}", headers=USER)


def as_another_caller(client, batch, item):
    client.get(f"/generations/{item}", headers=OTHER)
    client.get("/generations", headers=USER)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("read", "ends"),
    [
        (by_id, ["succeeded", "succeeded", "canceled"]),
        (as_the_admin, ["succeeded", "succeeded", "canceled"]),
        (its_events, ["succeeded", "succeeded", "canceled"]),
        (its_batch, ["succeeded", "succeeded", "succeeded"]),
        (as_another_caller, ["succeeded", "canceled", "canceled"]),
    ],
)
def test_work_continues_after_a_disconnect_if_its_caller_has_read_it(app, client, simulator, read, ends):
    with stream(client, USER, "quick", "[[hang]] a", "[[hang]] b") as answer:
        batch = next(lines(answer))["batch_id"]
        items = {each["prompt"][-1]: each["id"] for each in listed(client)["generations"]}
        read(client, batch, items["a"])
    service = app.extensions["service"]
    cancelled = [items[name] for name, end in zip("kab", ends, strict=True) if end == "canceled"]
    find = service.core.supervisor.find
    until(lambda: not any(service.loop.call(partial(find, each)) for each in cancelled))
    meanwhile(simulator.finish, lambda: settle(app))

    assert ends == [state(client, items[name]) for name in "kab"]


# ── While it stops, and after a restart


@pytest.mark.parametrize("by", [USER, ADMIN], ids=["user", "admin"])
def test_work_cancelled_during_a_stop_is_not_resumed(make_app, simulator, by):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client, service = app.test_client(), app.extensions["service"]
    running, partly = submit(client, "[[hang]]", by=by), submit_batch(client, "c", "d", by=by)
    until(lambda: "running" == state(client, running, by=by))
    one, several, kept = submit(client, by=by), submit_batch(client, "a", "b", by=by), submit(client, by=by)
    service.begin_drain(600)
    until(lambda: 1 == service.loop.call(lambda: len(service.core.supervisor.tasks())))
    item = client.get("/generations", headers=by).json["generations"][-2]["id"]

    with client.get(f"/generations/{one}/events", headers=by) as events:
        assert "shutting_down" in events.text.split("event: ")[-1]
    for address in (f"/generations/{one}", f"/batches/{several}", f"/generations/{item}"):
        assert 200 == client.delete(address, headers=by).status_code
    assert "canceled" == client.delete(f"/generations/{running}", headers=by).json["status"]
    service.close()
    client = make_app().test_client()

    def at_last(target):  # the view of a caller without a Replicate token
        return look_up(client, target, by=ADMIN)

    until(lambda: at_last(one)["status"] == "canceled" and at_last(several)["status"] == "completed")
    assert {"canceled": 2} == at_last(several)["counts"]
    assert "succeeded" == ended(client, kept, by=by)["status"]
    assert {"canceled": 1, "succeeded": 1} == ended(client, partly, by=by)["counts"]
    assert 3 == simulator.counts().creations_accepted


def test_suspended_generations_and_batches_show_the_time_of_suspension(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    submit(client, "[[hang]]")
    until(lambda: 1 == simulator.counts().in_flight)
    several = submit_batch(client, "a", "b")
    assert "waiting_for_owner_since" not in look_up(client, several)
    app.extensions["service"].close()
    client = make_app(REPLICATE_CONCURRENT_LIMIT=3).test_client()

    until(lambda: "waiting_for_owner_since" in look_up(client, several, by=ADMIN))
    since = [each["waiting_for_owner_since"] for each in listed(client)["generations"]]

    assert min(since) == look_up(client, several, by=ADMIN)["waiting_for_owner_since"]
    assert "waiting_for_owner_since" not in look_up(client, several)
    assert "waiting_for_owner_since" not in ended(client, several)


def test_suspended_work_resumes_when_its_owner_gets_it(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    ran = submit(client, "[[hang]]")
    until(lambda: "running" == state(client, ran))
    one, several = submit(client, "one"), submit_batch(client, "a", "b")
    app.extensions["service"].close()

    client = make_app(REPLICATE_CONCURRENT_LIMIT=3).test_client()

    for target in (ran, one, several):
        assert state(client, target, by=ADMIN) in {"queued", "running"}
    problem(client.get(f"/generations/{one}", headers=OTHER), 404, "not_found")
    assert 1 == simulator.counts().creations_accepted  # callers who may only view it do not resume it
    simulator.finish()
    assert ["succeeded"] * 2 + ["completed"] == [
        ended(client, each)["status"] for each in (ran, one, several)
    ]
    assert 4 == simulator.counts().creations_accepted


def test_the_owner_cancels_suspended_work_at_replicate(make_app, simulator):
    app = make_app()
    target = submit(app.test_client(), "[[hang]]")
    until(lambda: "running" == state(app.test_client(), target))
    app.extensions["service"].close()

    result = make_app().test_client().delete(f"/generations/{target}", headers=USER).json

    assert ("canceled", simulator.predictions()[0].id) == (result["status"], result["prediction_id"])
    assert {"canceled": 1} == dict(simulator.counts().finished)
    assert simulator.counts().billed_usd == result["cost_usd"]


def test_the_admin_cancels_suspended_work_and_its_batch_ends(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    submit(client, "[[hang]]")
    until(lambda: 1 == simulator.counts().in_flight)
    one, several = submit(client, "one"), submit_batch(client, "a", "b")
    app.extensions["service"].close()
    client = make_app().test_client()

    assert "canceled" == client.delete(f"/generations/{one}", headers=ADMIN).json["status"]
    batch = client.delete(f"/batches/{several}", headers=ADMIN).json

    assert ("completed", {"canceled": 2}) == (batch["status"], batch["counts"])
    for by in (USER, ADMIN):
        assert "canceled" == state(client, one, by=by)
        assert "completed" == state(client, several, by=by)
    assert 1 == simulator.counts().creations_accepted


def test_suspended_work_whose_image_is_lost_fails_as_interrupted(make_app, simulator, tmp_path):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    submit(client, "[[hang]]")
    until(lambda: 1 == simulator.counts().in_flight)
    target = submit(client)
    app.extensions["service"].close()
    written = {"model_name": "kontext-max", "prompt": "a", "input_image": {"uploaded": 0}}
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE generations SET request = ? WHERE id = ?", (json.dumps(written), target))

    client = make_app().test_client()

    result = look_up(client, target)
    assert ("failed", "interrupted", True) == (
        result["status"],
        result["error"]["code"],
        result["error"]["retryable"],
    )


# ── Lists


def test_a_list_has_the_callers_own_work_with_the_latest_first(client):
    for number in range(3):
        client.post("/generate", json=picture(f"{number}"), headers=USER)
    client.post("/generate", json=picture("theirs"), headers=OTHER)
    client.post("/generate", json=picture("the admin's"), headers=ADMIN)

    assert ["2", "1", "0"] == prompts(client)
    assert (["theirs"], ["the admin's"]) == (prompts(client, by=OTHER), prompts(client, by=ADMIN))
    assert listed(client)["generations"][0] == look_up(client, listed(client)["generations"][0]["id"])


def test_a_list_includes_unfinished_work(client):
    target = submit(client, "[[hang]]")

    (only,) = listed(client)["generations"]

    assert target == only["id"]
    assert only["status"] in {"queued", "submitting", "running"}
    client.delete(f"/generations/{target}", headers=USER)


def test_a_list_obeys_its_filters(client):
    body = {"model_name": "flux-dev", "prompts": ["a", "[[fail]] b"]}
    client.post("/generate-batch", json=body, headers=USER)
    client.post("/generate", json={"model_name": "qwen-image", "prompt": "c"}, headers=USER)
    latest = listed(client)["generations"][0]["created_at"]

    assert ["c", "[[fail]] b", "a"] == prompts(client)
    assert ["c", "a"] == prompts(client, "?state=succeeded")
    assert ["[[fail]] b"] == prompts(client, "?state=failed")
    assert [] == prompts(client, "?state=running")
    assert ["c"] == prompts(client, "?model=qwen-image") == prompts(client, "?model=qwen/qwen-image")
    assert ["a"] == prompts(client, "?model=flux-dev&state=succeeded")
    assert ["c"] == prompts(client, "?limit=1")
    assert ["c"] == prompts(client, f"?since={latest}")
    assert [] == prompts(client, "?since=2200-01-01") == prompts(client, "?since=2200-01-01T00:00:00+02:00")
    assert 3 == len(prompts(client, "?since=2020-01-01")) == len(prompts(client, "?since=0"))


def test_pages_have_no_gap_and_no_repetition_despite_new_work(client):
    body = {"model_name": "flux-dev", "prompts": [f"[[slow=0]] {number}" for number in range(7)]}
    client.post("/generate-batch", json=body, headers=USER)
    pages, query = [], "?limit=3"
    while True:
        page = listed(client, query)
        pages.append([each["prompt"][-1] for each in page["generations"]])
        client.post("/generate", json=picture("[[slow=0]] new"), headers=USER)
        if page["next_cursor"] is None:
            break
        query = f"?limit=3&cursor={page['next_cursor']}"

    assert [["6", "5", "4"], ["3", "2", "1"], ["0"]] == pages


def test_a_full_page_is_the_last_if_no_work_follows(client):
    for _ in range(2):
        client.post("/generate", json=picture("[[slow=0]]"), headers=USER)

    assert (2, None) == (
        len(listed(client, "?limit=2")["generations"]),
        listed(client, "?limit=2")["next_cursor"],
    )


def test_a_cursor_of_another_caller_shows_none_of_its_work(client):
    for caller in (USER, OTHER, USER):
        client.post("/generate", json=picture("[[slow=0]]"), headers=caller)
    theirs = listed(client, "?limit=1")["next_cursor"]

    assert 1 == len(prompts(client, f"?cursor={theirs}", by=OTHER))
    assert [] == prompts(client, f"?cursor={cursor(1)}")


def test_all_problems_of_a_query_are_reported_at_once(client):
    answer = client.get("/generations?state=done&model=nope&since=soon&limit=0&cursor=!&page=2", headers=USER)

    assert {"state", "model", "since", "limit", "cursor", "page"} == set(fields(answer))
    assert {"since", "until", "group_by", "by"} == set(
        fields(client.get("/usage?since=x&until=y&group_by=z&by=model", headers=USER))
    )
    problem(client.get("/generations?limit=0"), 401, "unauthenticated")


def test_a_repeated_query_parameter_is_refused(client):
    assert ["state", "x"] == fields(
        client.get("/generations?state=failed&state=queued&x=1&x=1", headers=USER)
    )
    assert ["group_by"] == fields(client.get("/usage?group_by=day&group_by=day", headers=USER))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(
        ["state", "model", "since", "limit", "cursor", "until", "group_by", "kind", "batch", "prompt"]
    ),
    value=st.text(max_size=30)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.binary(max_size=12).map(repr),
    path=st.sampled_from(["/generations", "/usage"]),
)
def test_any_query_succeeds_or_is_a_bad_request(client, name, value, path):
    answer = client.get(path, query_string={name: value.encode(errors="replace")}, headers=USER)

    assert answer.status_code in {200, 400}


def test_routes_accept_only_their_methods(client):
    target = ended(client, submit(client))["id"]

    for path, method in (
        (f"/generations/{target}", "POST"),
        ("/generations", "POST"),
        ("/generations", "DELETE"),
        (f"/generations/{target}/events", "DELETE"),
        ("/usage", "POST"),
        ("/webhooks/replicate", "GET"),
    ):
        problem(client.open(path, method=method, headers=USER), 405, "method_not_allowed")
    assert 200 == client.get("/generations/", headers=USER).status_code
    problem(client.get("/generation", headers=USER), 404, "not_found")


def test_refused_requests_are_not_listed(client):
    client.post("/generate", json=picture("", seed="x"), headers=USER | ASYNC)
    client.post("/generate", json=PICTURE | {"max_cost_usd": 0}, headers=USER | ASYNC)

    assert [] == listed(client)["generations"]
