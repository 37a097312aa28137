"""Named keys over HTTP: made, listed, changed, rotated, deleted, and used in each header."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from harness.service_process import until
from tests.support.api_client import ASYNC, ended, look_up, picture, state, submit
from tests.support.callers import ADMIN, USER
from tests.support.named_keys import change_key, make_key
from tests.support.problem_documents import fields


def code(answer):
    return answer.status_code, answer.json["code"]


# ── Make, list, look up


def test_a_key_is_shown_once_and_then_only_how_its_text_begins(client):
    made = client.post("/keys", json={"name": "shop", "budget_usd": 5, "budget_period": "day"}, headers=ADMIN)

    assert 201 == made.status_code
    assert made.json["key"].startswith("rcg_")
    assert len("rcg_") + 32 <= len(made.json["key"])
    assert made.json["key"].startswith(made.json["prefix"])
    shown = {name: value for name, value in made.json.items() if name != "key"}
    assert shown == client.get(f"/keys/{made.json['id']}", headers=ADMIN).json
    assert [shown] == client.get("/keys", headers=ADMIN).json["keys"]
    assert "no-store" == made.headers["Cache-Control"]


def test_the_ledger_has_no_text_of_a_key(client, app):
    _, by = make_key(client)
    service = app.extensions["service"]

    [kept] = service.queries.api_keys(limit=10)

    assert by["X-API-Key"][len(kept.prefix) :] not in repr(kept)
    assert service.authenticator.keyed_hash(by["X-API-Key"]) == kept.digest


def test_the_keys_are_listed_in_pages_the_newest_first(client):
    made = [make_key(client, f"key {number}")[0] for number in range(5)]
    found, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = client.get("/keys", query_string=query, headers=ADMIN).json
        assert len(page["keys"]) <= 2
        found += [each["id"] for each in page["keys"]]
        if (cursor := page["next_cursor"]) is None:
            break

    assert made[::-1] == found
    assert ["cursor"] == fields(client.get("/keys?cursor=x", headers=ADMIN))


@pytest.mark.parametrize(
    "character",
    ["\0", "\n", "\x1b", "\x7f", "\x85", "\u200b", "\u200f", "\u202e", "\u2066", "\ufeff", "\U000e0041"],
)
def test_characters_that_are_not_shown_are_refused_in_names_and_tags(client, character):
    key_id, _ = make_key(client, "shop", tags={"team": "a"})
    text = f"sh{character}op"

    for wrong in ({"name": text}, {"tags": {text: "a"}}, {"tags": {"team": text}}):
        for answer in (
            client.post("/keys", json={"name": "new", **wrong}, headers=ADMIN),
            change_key(client, key_id, **wrong),
        ):
            assert [*wrong] == fields(answer)
    [kept] = client.get("/keys", headers=ADMIN).json["keys"]
    assert ("shop", {"team": "a"}) == (kept["name"], kept["tags"])


def test_letters_marks_and_symbols_of_any_script_are_allowed_in_names_and_tags(client):
    text = "Küche 厨房 \u05de\u05d8\u05d1\u05d7 कु e\u0301 🍳 \u0645\u06cc\u200c\u062e 👩\u200d🚀"

    _, by = make_key(client, text, tags={text: text})

    own = client.get("/keys/self", headers=by).json
    assert (text, {text: text}) == (own["name"], own["tags"])


SOON = (datetime.now(UTC) + timedelta(days=1)).isoformat()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, ["name"]),
        ({"name": ""}, ["name"]),
        ({"name": "a" * 101}, ["name"]),
        ({"name": " a"}, ["name"]),
        ({"name": None}, ["name"]),
        ({"name": "a", "budget": 5}, ["budget"]),
        ({"name": "a", "budget_usd": 5}, ["budget_period"]),
        ({"name": "a", "budget_period": "day"}, ["budget_usd"]),
        ({"name": "a", "budget_usd": -1, "budget_period": "year"}, ["budget_usd", "budget_period"]),
        ({"name": "a", "role": "root"}, ["role"]),
        ({"name": "a", "max_concurrent": 0, "requests_per_minute": 0, "max_queued": 0}, 3),
        ({"name": "a", "max_concurrent": "5"}, ["max_concurrent"]),
        ({"name": "a", "models": []}, ["models"]),
        ({"name": "a", "models": ["flux-deb"]}, ["models[0]"]),
        ({"name": "a", "models": ["flux-dev", "a/*", "a/b", "image", "free", "*"]}, ["models[5]"]),
        ({"name": "a", "tags": {"team": 1}}, ["tags.team"]),
        ({"name": "a", "tags": {str(number): "" for number in range(17)}}, ["tags"]),
        ({"name": "a", "tags": {"a" * 65: ""}}, ["tags"]),
        ({"name": "a", "expires_at": "2020-01-01T00:00:00Z"}, ["expires_at"]),
        ({"name": "a", "expires_at": "2099-01-01T00:00:00"}, ["expires_at"]),
        ({"name": "a", "expires_at": "2099-01-01"}, ["expires_at"]),
        ({"name": "a", "expires_at": "9999-12-31T23:59:59-14:00"}, ["expires_at"]),
        ({"name": "a", "expires_at": "0001-01-01T00:00:00+14:00"}, ["expires_at"]),
        ({"name": "a\u0000", "tags": {"a": "\ud800"}}, ["name", "tags"]),
        ({"name": "a", "expires_at": 4070908800}, ["expires_at"]),
        ({"name": "a", "expires_at": "9999-12-31T23:59:59-01:00"}, ["expires_at"]),
        ({"name": "a", "expires_at": "9999-12-31T23:59:59.999999Z"}, ["expires_at"]),
    ],
)
def test_the_invalid_fields_of_a_key_are_named(client, body, named):
    answer = client.post("/keys", json=body, headers=ADMIN)

    assert 400 == answer.status_code
    assert named == (len(fields(answer)) if isinstance(named, int) else fields(answer))
    assert [] == client.get("/keys", headers=ADMIN).json["keys"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"name": ""}, "must not be empty"),
        ({"name": "a" * 101}, "must have at most 100 characters"),
        ({"name": "\ud800"}, "must not contain lone surrogates"),
        ({"name": "a", "tags": []}, "must be a JSON object"),
        ({"name": "a", "models": []}, "must not be empty"),
    ],
)
def test_a_mistake_in_a_key_is_told_in_words(client, body, message):
    [wrong] = client.post("/keys", json=body, headers=ADMIN).json["errors"]

    assert message == wrong["message"]


def test_a_misspelt_field_gets_a_suggestion(client):
    answer = client.post("/keys", json={"name": "a", "budgt_usd": 5}, headers=ADMIN)

    assert "is not a known field; did you mean budget_usd?" == answer.json["errors"][0]["message"]


def test_all_fields_of_a_key_are_kept(client):
    limits = {
        "name": "shop", "role": "caller", "max_concurrent": 2, "requests_per_minute": 30, "max_queued": 100,
        "budget_usd": 2.5, "budget_period": "month", "models": ["flux-dev", "acme/*", "image"],
        "tags": {"team": "shop"},
    }  # fmt: skip
    key_id, _ = make_key(client, **limits, expires_at=SOON)

    shown = client.get(f"/keys/{key_id}", headers=ADMIN).json

    assert limits == {name: shown[name] for name in limits}
    assert datetime.fromisoformat(SOON).timestamp() == pytest.approx(
        datetime.fromisoformat(shown["expires_at"]).timestamp(), abs=0.001
    )


# ── Use


@pytest.mark.parametrize(
    "send", [lambda key: {"X-API-Key": key}, lambda key: {"Authorization": f"Bearer {key}"}]
)
def test_a_key_generates_in_each_header_and_another_one_does_not_see_it(client, send):
    _, by = make_key(client)

    work = submit(client, by=send(by["X-API-Key"]))

    assert "succeeded" == ended(client, work, by=by)["status"]
    assert 404 == client.get(f"/generations/{work}", headers=make_key(client, "other")[1]).status_code
    assert 404 == client.delete(f"/generations/{work}", headers=make_key(client, "other")[1]).status_code
    assert 200 == client.get(f"/generations/{work}", headers=ADMIN).status_code


def test_a_key_of_the_role_admin_is_accepted_in_the_header_for_admins_and_others_are_not(client):
    _, admin = make_key(client, role="admin")
    _, caller = make_key(client)

    assert 200 == client.get("/keys", headers={"X-Admin-API-Key": admin["X-API-Key"]}).status_code
    assert 401 == client.get("/keys", headers={"X-Admin-API-Key": caller["X-API-Key"]}).status_code


def test_the_same_idempotency_key_of_two_keys_is_of_two_generations(client):
    repeated = {"Idempotency-Key": "k", **ASYNC}
    one, other = make_key(client)[1], make_key(client)[1]

    ids = [
        client.post("/generate", json=picture(), headers={**by, **repeated}).json["id"]
        for by in (one, one, other)
    ]

    assert ids[0] == ids[1] != ids[2]


def test_a_key_sees_itself_with_its_use(client):
    key_id, by = make_key(client, budget_usd=1, budget_period="day", max_concurrent=3)
    ended(client, submit(client, by=by), by=by)

    own = client.get("/keys/self", headers=by).json

    assert (key_id, "caller", 3) == (own["id"], own["role"], own["max_concurrent"])
    assert (0, 0, 1) == (own["in_flight"], own["waiting"], own["created_last_minute"])
    assert 0.025 == own["budget"]["used_usd"]
    assert 0.975 == own["budget"]["left_usd"]
    assert "key" not in own


def test_the_admin_key_and_a_user_see_themselves(client):
    assert ("admin", "admin") == tuple(
        client.get("/keys/self", headers=ADMIN).json[name] for name in ("id", "role")
    )
    user = client.get("/keys/self", headers=USER).json
    assert "user" == user["role"]
    assert user["id"].startswith("user_")
    assert 401 == client.get("/keys/self").status_code


# ── Change, rotate, delete


def test_a_change_names_what_it_changes_and_null_ends_a_limit(client):
    key_id, _ = make_key(client, max_concurrent=2, requests_per_minute=30)

    changed = change_key(client, key_id, max_concurrent=None, name="renamed").json

    assert (None, 30, "renamed") == tuple(
        changed[name] for name in ("max_concurrent", "requests_per_minute", "name")
    )
    assert changed == client.get(f"/keys/{key_id}", headers=ADMIN).json
    assert ["body"] == fields(change_key(client, key_id))
    assert ["name"] == fields(change_key(client, key_id, name=None))
    assert 404 == change_key(client, "key_unknown", name="a").status_code


def test_a_budget_is_changed_with_its_period_or_ended(client):
    key_id, _ = make_key(client, budget_usd=1, budget_period="day")

    assert 2 == change_key(client, key_id, budget_usd=2).json["budget_usd"]
    assert "week" == change_key(client, key_id, budget_period="week").json["budget_period"]
    assert ["budget_usd"] == fields(change_key(client, key_id, budget_usd=None, budget_period="day"))
    ended = change_key(client, key_id, budget_usd=None).json
    assert (None, None) == (ended["budget_usd"], ended["budget_period"])
    assert ["budget_period"] == fields(change_key(client, key_id, budget_usd=2))


def test_rotation_keeps_the_identity_and_the_old_text_for_the_time_of_grace(client):
    key_id, old = make_key(client)
    work = submit(client, by=old)

    rotated = client.post(f"/keys/{key_id}/rotate", json={"grace_seconds": 1}, headers=ADMIN).json

    new = {"X-API-Key": rotated["key"]}
    assert key_id == rotated["id"]
    assert new != old
    until(lambda: client.get("/generations", headers=old).status_code == 401)
    assert work == ended(client, work, by=new)["id"]
    assert time.time() >= datetime.fromisoformat(rotated["previous_valid_until"]).timestamp()


def test_rotation_without_grace_ends_the_old_text_at_once(client):
    key_id, old = make_key(client)

    rotated = client.post(f"/keys/{key_id}/rotate", json={}, headers=ADMIN).json

    assert 401 == client.get("/generations", headers=old).status_code
    assert 200 == client.get("/generations", headers={"X-API-Key": rotated["key"]}).status_code
    assert ["grace_seconds"] == fields(
        client.post(f"/keys/{key_id}/rotate", json={"grace_seconds": -1}, headers=ADMIN)
    )


@pytest.mark.parametrize(
    "sent", [{}, {"json": {}}, {"data": ""}, {"data": "", "content_type": "application/json"}]
)
def test_rotation_without_a_body_has_no_grace(client, sent):
    key_id, old = make_key(client)

    rotated = client.post(f"/keys/{key_id}/rotate", headers=ADMIN, **sent)

    assert (200, None) == (rotated.status_code, rotated.json["previous_valid_until"])
    assert 401 == client.get("/generations", headers=old).status_code
    assert 200 == client.get("/generations", headers={"X-API-Key": rotated.json["key"]}).status_code


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"data": "{}"}, 415),
        ({"data": " ", "content_type": "application/json"}, 400),
        ({"data": "grace_seconds=60", "content_type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_a_rotation_with_a_body_that_cannot_be_read_is_refused(client, sent, status):
    key_id, by = make_key(client)

    assert status == client.post(f"/keys/{key_id}/rotate", headers=ADMIN, **sent).status_code
    assert 200 == client.get("/generations", headers=by).status_code


def test_a_deleted_key_is_refused_at_once_in_the_process_that_deleted_it(client):
    key_id, by = make_key(client)
    assert 200 == client.get("/generations", headers=by).status_code

    assert 204 == client.delete(f"/keys/{key_id}", headers=ADMIN).status_code

    assert 401 == client.get("/generations", headers=by).status_code
    assert [] == client.get("/keys", headers=ADMIN).json["keys"]
    assert client.get(f"/keys/{key_id}", headers=ADMIN).json["deleted_at"]


def test_a_deleted_key_cannot_be_changed_and_the_refusal_says_why(client):
    key_id, _ = make_key(client)
    client.delete(f"/keys/{key_id}", headers=ADMIN)
    deleted_at = client.get(f"/keys/{key_id}", headers=ADMIN).json["deleted_at"]

    for answer in (
        change_key(client, key_id, name="a"),
        client.post(f"/keys/{key_id}/rotate", headers=ADMIN),
        client.delete(f"/keys/{key_id}", headers=ADMIN),
    ):
        assert (404, "not_found") == code(answer)
        assert f"The key with this id was deleted at {deleted_at}." == answer.json["detail"]
    assert "No key has this id." == change_key(client, "key_unknown", name="a").json["detail"]


def test_the_waiting_work_of_a_deleted_key_is_cancelled_and_its_running_work_ends(make_app):
    client = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client()
    key_id, by = make_key(client)
    running = submit(client, "[[slow=1]] runs", by=by)
    until(lambda: state(client, running, by=by) == "running")
    waiting = submit(client, by=by)

    client.delete(f"/keys/{key_id}", headers=ADMIN)

    assert "canceled" == ended(client, waiting, by=ADMIN)["status"]
    assert "succeeded" == ended(client, running, by=ADMIN)["status"]


def test_a_key_outlives_a_restart_and_so_does_its_deletion(make_app):
    client = make_app().test_client()
    deleted, gone = make_key(client)
    _, by = make_key(client)
    client.delete(f"/keys/{deleted}", headers=ADMIN)
    client.application.extensions["service"].close()

    client = make_app().test_client()

    assert 200 == client.get("/generations", headers=by).status_code
    assert 401 == client.get("/generations", headers=gone).status_code


# ── Models


@pytest.mark.parametrize(
    ("models", "model", "may"),
    [
        (["flux-dev"], "flux-dev", True),
        (["black-forest-labs/flux-dev"], "flux-dev", True),
        (["black-forest-labs/*"], "flux-dev", True),
        (["image"], "flux-dev", True),
        (["video"], "flux-dev", False),
        (["flux-schnell"], "flux-dev", False),
        (["google/*", "flux-schnell"], "flux-dev", False),
    ],
)
def test_a_key_runs_only_its_models(client, simulator, models, model, may):
    _, by = make_key(client, models=models)
    single, batch = picture(model_name=model), {"model_name": model, "prompts": ["a", "b"]}

    answers = [
        client.post("/generate", json=single, headers=by),
        client.post("/generate", json=single | {"dry_run": True}, headers=by),
        client.post("/generate-batch", json=batch, headers=by),
        client.post("/generate-batch", json={"requests": [single]}, headers=by),
    ]

    assert [200 if may else 403] * 4 == [each.status_code for each in answers]
    if not may:
        assert {"model_not_allowed"} == {each.json["code"] for each in answers}
        assert [] == simulator.predictions()


def test_a_fallback_that_the_request_names_must_be_a_model_of_the_key(client, simulator):
    _, by = make_key(client, models=["flux-dev", "flux-schnell"])
    sent = {"json": picture("[[fail]] a", fallback=["flux-schnell", "seedream-4.5"]), "headers": by}

    answer = client.post("/generate", **sent)

    assert (403, "model_not_allowed") == code(answer)
    assert "seedream-4.5 may not be run with this key" in answer.json["detail"]
    assert [] == simulator.predictions()


def test_a_fallback_that_the_rules_choose_is_passed_over_if_it_is_no_model_of_the_key(client, simulator):
    _, by = make_key(client, models=["flux-dev"])

    client.post("/generate", json=picture("[[fail=nsfw]] a", fallback=True), headers=by)

    assert {"black-forest-labs/flux-dev"} == {each.model for each in simulator.predictions()}


def test_a_change_of_the_models_holds_for_the_next_request(client):
    key_id, by = make_key(client, models=["video"])
    assert 403 == client.post("/generate", json=picture(), headers=by).status_code

    change_key(client, key_id, models=None)

    assert 200 == client.post("/generate", json=picture(), headers=by).status_code
    assert look_up(client, submit(client, by=by), by=by)


@pytest.mark.parametrize("outcome", ["[[transient]]", "[[only=flux-dev]] [[nsfw]]"])
@pytest.mark.parametrize("changes", [None, {"models": ["video"]}, {"role": "viewer"}])
def test_running_work_makes_no_other_prediction_that_its_key_may_not_make_by_then(
    client, simulator, outcome, changes
):
    key_id, by = make_key(client)
    running = submit(client, f"[[slow=1]] {outcome} a", by=by, fallback=["qwen-image"])
    until(simulator.predictions)

    if changes is None:
        client.delete(f"/keys/{key_id}", headers=ADMIN)
    else:
        change_key(client, key_id, **changes)

    assert "failed" == ended(client, running, by=ADMIN)["status"]
    assert 1 == len(simulator.predictions())


def test_a_lower_budget_holds_for_a_dearer_fallback_of_running_work(client, simulator):
    key_id, by = make_key(client, budget_usd=10, budget_period="day")
    running = submit(client, "[[slow=1]] [[only=flux-dev]] [[nsfw]] a", by=by, fallback=["flux-1.1-pro"])
    until(simulator.predictions)

    change_key(client, key_id, budget_usd=0)

    assert "failed" == ended(client, running, by=ADMIN)["status"]
    assert 1 == len(simulator.predictions())
