"""`requests[i].idempotency_key`: an item that its caller already has is joined, not made again."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from harness.service_process import until
from tests.support.api_client import ASYNC, PICTURE, ended, look_up, meanwhile, picture, submit
from tests.support.callers import ADMIN, USER
from tests.support.ndjson import NDJSON, lines
from tests.support.problem_documents import fields, problem
from tests.support.served_in_process import online, receiving

OTHER = {"X-Replicate-API-Key": "r8_other"}


def item(key=None, prompt="[[slow=0]] A hare", **more):
    return picture(prompt, **more) | ({} if key is None else {"idempotency_key": key})


def post(client, *items, by=USER, headers=None, **fields):
    return client.post(
        "/generate-batch", json={"requests": [*items], **fields}, headers={**by, **(headers or {})}
    )


def ids(answer):
    return [each["id"] for each in answer.json["results"]]


def joined(answer):
    return {each["index"]: each["id"] for each in answer.json.get("joined", [])}


@pytest.mark.every_database
def test_an_item_that_is_there_is_joined_in_its_place_and_costs_nothing_more(client, simulator):
    first = post(client, item("a"), item("b", "[[slow=0]] b"))

    again = post(client, item("new", "[[slow=0]] new"), item("b", "[[slow=0]] b"), item(), item("a"))

    assert 200 == first.status_code == again.status_code
    assert {1: ids(first)[1], 3: ids(first)[0]} == joined(again)
    assert ids(again)[1::2] == ids(first)[::-1]
    assert [None, True, None, True] == [each.get("joined") for each in again.json["results"]]
    assert [0, 1, 2, 3] == [each["index"] for each in again.json["results"]]
    assert first.json["id"] == again.json["results"][1]["batch_id"]
    assert (4, 4, 0) == tuple(again.json[name] for name in ("total", "succeeded", "failed"))
    assert again.json["actual_cost_usd"] == first.json["actual_cost_usd"] == again.json["estimated_cost_usd"]
    assert 4 == simulator.counts().creations_accepted
    shown = look_up(client, again.json["id"])
    assert shown["results"] == again.json["results"]
    assert {"succeeded": 4} == shown["counts"]
    [second, one] = client.get("/batches", headers=USER).json["batches"]
    assert ({"succeeded": 4}, {"succeeded": 2}) == (second["counts"], one["counts"])
    assert second["actual_cost_usd"] == one["actual_cost_usd"]


@pytest.mark.every_database
def test_an_item_and_a_request_to_generate_share_their_keys(client, simulator):
    single = client.post(
        "/generate", json=picture("[[slow=0]] A hare"), headers=USER | {"Idempotency-Key": "k"}
    )
    answer = post(client, item("k", seed=None), item("other"))
    late = client.post(
        "/generate", json=picture("[[slow=0]] A hare"), headers=USER | {"Idempotency-Key": "other"}
    )

    assert single.json["id"] == ids(answer)[0]
    assert ids(answer)[1] == late.json["id"]
    assert 2 == simulator.counts().creations_accepted


def test_a_failed_item_is_shown_again(client, simulator):
    first = post(client, item("a", "[[fail]]"))
    again = post(client, item("a", "[[fail]]"))

    assert ids(first) == ids(again)
    assert (False, 1) == (again.json["success"], again.json["failed"])
    assert 1 == simulator.counts().creations_accepted


@pytest.mark.every_database
def test_another_item_under_a_known_key_is_a_conflict_that_names_the_field_and_spends_nothing(
    client, simulator
):
    post(client, item("a"), item("b"))

    for headers in ({}, ASYNC, NDJSON, {"Idempotency-Key": "of the batch".replace(" ", "-")}):
        answer = post(client, item("new"), item("a"), item("b", seed=5), headers=headers)
        found = problem(answer, 409, "idempotency_conflict")
        assert ["requests[2].idempotency_key"] == [each["field"] for each in found["errors"]]
        assert found["detail"].startswith("requests[2].idempotency_key: ")
    problem(post(client, item("b", seed=5), dry_run=True), 409, "idempotency_conflict")
    problem(
        client.post("/generate", json=PICTURE, headers=USER | {"Idempotency-Key": "a"}),
        409,
        "idempotency_conflict",
    )
    assert 2 == simulator.counts().creations_accepted
    assert {} == joined(post(client, item("new")))  # the refused requests left it free


def test_the_key_of_a_batch_is_none_for_an_item(client):
    batch = {"requests": [item()]}
    client.post("/generate-batch", json=batch, headers=USER | {"Idempotency-Key": "b"})

    answer = post(client, item("b"))

    found = problem(answer, 409, "idempotency_conflict")
    assert ["requests[0].idempotency_key"] == [each["field"] for each in found["errors"]]


def test_a_key_twice_in_a_batch_is_a_mistake(client, simulator):
    assert ["requests[2].idempotency_key"] == fields(post(client, item("a"), item("b"), item("a", "c")))
    assert ["requests[1].idempotency_key"] == fields(
        post(client, item("a"), item("b"), headers={"Idempotency-Key": "b"})
    )
    assert 0 == simulator.counts().creations_accepted


@pytest.mark.parametrize("key", ["", " ", "a b", "é", "x" * 256, "a\n", 3, [], True])
def test_an_invalid_key_is_a_mistake(client, key):
    assert ["requests[0].idempotency_key"] == fields(post(client, item() | {"idempotency_key": key}))


@pytest.mark.parametrize("key", ["x" * 255, "!", "';--", "~/../{}%00"])
def test_any_visible_ascii_text_is_a_valid_key(client, key):
    assert ids(post(client, item(key))) == ids(post(client, item(key)))


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/generate", PICTURE, "idempotency_key"),
        ("/generate-batch", {"model_name": "flux-dev", "prompts": ["a"]}, "idempotency_key"),
        ("/generate-batch", {"model_name": "flux-dev", "inputs": [{"prompt": "a"}]}, "idempotency_key"),
        ("/generate-batch", {"requests": [PICTURE]}, "idempotency_key"),
    ],
)
def test_only_whole_requests_of_a_batch_have_keys_in_the_body(client, path, body, field):
    assert [field] == fields(client.post(path, json=body | {"idempotency_key": "a"}, headers=USER))


def test_keys_of_different_callers_are_different_keys(client, simulator):
    answers = [post(client, item("a"), by=caller) for caller in (USER, OTHER, ADMIN)]

    assert 3 == len({*map(tuple, map(ids, answers))}) == simulator.counts().creations_accepted


def test_a_dry_run_counts_only_what_is_not_there(client, simulator):
    post(client, item("a"), item("b"))
    plan = post(client, item("a"), item("c"), item("b"), dry_run=True).json
    alone = post(client, item("c"), dry_run=True).json
    none = post(client, item("a"), item("b"), dry_run=True).json

    assert (3, 2) == (plan["total"], len(plan["joined"]))
    assert plan["estimated_cost_usd"] == alone["estimated_cost_usd"] > 0
    assert plan["cost_bound_usd"] == alone["cost_bound_usd"] > 0
    assert (0, 0) == (none["estimated_cost_usd"], none["cost_bound_usd"])
    assert "joined" not in alone
    assert 2 == simulator.counts().creations_accepted


@pytest.mark.every_database
def test_a_batch_ends_when_the_running_items_that_it_joined_have_ended(client, simulator):
    running = submit(client, "[[hang]]", by=USER | {"Idempotency-Key": "k"})
    wanted = item("k", "[[hang]]"), item("new")

    started = post(client, *wanted, headers=ASYNC).json
    until(lambda: look_up(client, started["id"])["succeeded"] == 1)
    before = look_up(client, started["id"])
    lined = meanwhile(simulator.finish, lambda: list(lines(post(client, *wanted, headers=NDJSON))))

    assert [{"index": 0, "id": running}] == started["joined"] == before["joined"]
    assert ("running", [1]) == (before["status"], [each["index"] for each in before["results"]])
    assert {0: running} == {each["index"]: each["id"] for each in lined[:-1] if each["id"] == running}
    assert [2, 2] == [lined[-1]["total"], lined[-1]["succeeded"]]
    shown = ended(client, started["id"])
    assert [running, lined[0]["id"] if lined[0]["index"] else lined[1]["id"]] == [
        each["id"] for each in shown["results"]
    ]
    assert 2 == simulator.counts().creations_accepted


@pytest.mark.every_database
def test_the_webhook_of_a_batch_has_its_joined_items_and_waits_until_they_have_ended(make_app, simulator):
    app = make_app(REPLICATE_SIMULATE=1)
    client = app.test_client()
    with receiving() as whole, receiving() as of_item:
        hanging = item("running", "[[hang]]", webhook=of_item.url)
        running = submit(client, "[[hang]]", by=ADMIN | {"Idempotency-Key": "running"}, webhook=of_item.url)
        done = ids(post(client, item("done"), by=ADMIN))
        items = [item("done"), hanging, item("new")]
        started = post(client, *items, by=ADMIN, headers=ASYNC, webhook=whole.url).json
        until(lambda: 2 == look_up(client, started["id"], by=ADMIN)["succeeded"])
        app.extensions["service"].close()
        client = make_app(REPLICATE_SIMULATE=1).test_client()
        assert [] == whole.received

        simulator.finish()
        until(lambda: whole.received and of_item.received)
        shown = look_up(client, started["id"], by=ADMIN)

    (message,) = whole.received
    assert [*done, running] == [each["id"] for each in message.json["results"] if each.get("joined")]
    assert (3, 3, 0) == tuple(message.json[name] for name in ("total", "succeeded", "failed"))
    assert shown["results"] == message.json["results"]
    assert [running] == [each.json["id"] for each in of_item.received]


def test_the_webhook_of_a_batch_of_items_that_have_all_ended_is_called_at_once(make_app, simulator):
    client = make_app(REPLICATE_SIMULATE=1).test_client()
    first = post(client, item("a"), item("b", "[[fail]]"))
    with receiving() as receiver:
        again = post(client, item("a"), item("b", "[[fail]]"), webhook=receiver.url)
        until(lambda: receiver.received)

    assert [again.json] == [each.json for each in receiver.received]
    assert ids(first) == [each["id"] for each in receiver.received[0].json["results"]]
    assert 2 == simulator.counts().creations_accepted


def test_cancelling_a_batch_leaves_the_items_that_it_joined(client, simulator):
    running = submit(client, "[[hang]]", by=USER | {"Idempotency-Key": "k"})
    started = post(client, item("k", "[[hang]]"), item("own", "[[hang]]"), headers=ASYNC).json
    until(lambda: 2 == simulator.counts().in_flight)

    meanwhile_cancelled = meanwhile(
        lambda: simulator.finish() if look_up(client, started["id"])["counts"].get("canceled") else None,
        lambda: client.delete(f"/batches/{started['id']}", headers=USER).json,
    )

    assert "completed" == meanwhile_cancelled["status"]
    assert {"succeeded": 1, "canceled": 1} == meanwhile_cancelled["counts"]
    assert "succeeded" == ended(client, running)["status"]


def test_items_that_are_there_need_no_room_and_no_money(make_app, simulator):
    client = make_app(MAX_QUEUED=2, BUDGET_USD_PER_DAY=0.06).test_client()
    first = post(client, item("a"), item("b"), by=ADMIN)

    again = post(client, item("a"), item("b"), by=ADMIN, max_cost_usd=0)

    assert (200, ids(first)) == (again.status_code, ids(again))
    assert 402 == post(client, item("a"), item("c"), by=ADMIN).status_code
    assert 2 == simulator.counts().creations_accepted


@pytest.mark.every_database
def test_simultaneous_batches_with_overlapping_keys_make_each_item_once(app, simulator):
    names = [f"k{number}" for number in range(12)]
    with online(app) as url, ThreadPoolExecutor(8) as callers:

        def call(number):
            wanted = names[number : number + 8]
            body = {
                "requests": [
                    item(each, f"[[slow=0]] {each}") for each in (wanted[::-1] if number % 2 else wanted)
                ]
            }
            answer = requests.post(url + "/generate-batch", json=body, headers=USER, timeout=30).json()
            keys = [each["idempotency_key"] for each in body["requests"]]
            return [
                (key, each["id"], each["prompt"]) for key, each in zip(keys, answer["results"], strict=True)
            ]

        shown = {each for answer in callers.map(call, [0, 1, 2, 3, 4, 0, 2, 4]) for each in answer}

    assert {(key, f"[[slow=0]] {key}") for key in names} == {(key, prompt) for key, _, prompt in shown}
    assert len(names) == len(shown) == simulator.counts().creations_accepted
