"""`GET /usage`: counts and costs, compared with what the simulator billed."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from contract.trainings import TRAINING
from harness.service_process import until
from tests.support.api_client import PICTURE, ended, look_up, picture, submit, submit_batch
from tests.support.callers import ADMIN, USER
from tests.support.records import generation

OTHER = {"X-Replicate-API-Key": "r8_other"}


def usage(client, query="", *, by=ADMIN):
    answer = client.get(f"/usage{query}", headers=by)
    assert 200 == answer.status_code, answer.json
    return answer.json


FILM = {"model_name": "kling-v2.1-master", "prompt": "a", "start_image": "https://example.com/a.png"}

BUSY = [
    (USER, PICTURE | {"num_outputs": 3}),
    (USER, picture("[[fewer]]", num_outputs=4)),
    (USER, picture("[[fail]]")),
    (OTHER, picture("[[nsfw]]")),
    (OTHER, picture("[[transient]]")),
    (OTHER, picture("[[only=flux-dev]] [[fail]]", fallback=["kontext-max"])),
    (ADMIN, {"model_name": "veo-3-fast", "prompt": "a", "duration": 4}),
    (ADMIN, FILM | {"duration": 10}),
    (ADMIN, FILM),
    (ADMIN, {"model_name": "qwen-image", "prompts": ["a", "[[fail]]", "b"]}),
]


@pytest.fixture
def busy(app, client, simulator):
    """A day with work of every kind: partial successes, failures, refusals, cancellations and fallbacks."""

    def post(wish):
        by, body = wish
        path = "/generate-batch" if "prompts" in body else "/generate"
        return app.test_client().post(path, json=body, headers=by)

    with ThreadPoolExecutor(len(BUSY)) as callers:
        list(callers.map(post, BUSY))
    running = submit(client, "[[hang]]", num_outputs=2)
    until(lambda: "processing" == simulator.predictions()[-1].status)
    until(lambda: "running" == look_up(client, running)["status"])
    client.delete(f"/generations/{running}", headers=USER)
    return client


@pytest.mark.every_database
def test_usage_equals_what_replicate_billed_in_every_grouping(busy, simulator):
    billed = simulator.counts().billed_usd

    for query in ("", "?group_by=model", "?group_by=caller", "?group_by=day"):
        said = usage(busy, query)
        assert billed == said["total"]["usd"] == round(sum(each["usd"] for each in said["usage"]), 6)
        for name in (
            "generations",
            "succeeded",
            "failures",
            "canceled",
            "images",
            "video_seconds",
            "credits",
        ):
            assert said["total"][name] == sum(each[name] for each in said["usage"]), name
    assert {
        "generations": 13,
        "succeeded": 9,
        "failures": 3,
        "canceled": 1,
        "images": 3 + 3 + 1 + 1 + 2,
        "video_seconds": 4 + 10 + 5,
        "usd": billed,
        "credits": 2 + 2 + 2 + 10 + 400 + 180 + 180 + 2 + 2,
        "calls": 0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "thinking_tokens": 0,
        "trainings": 0,
        "training_usd": 0,
    } == usage(busy)["total"]

    by_model = {each.pop("model"): each for each in usage(busy, "?group_by=model")["usage"]}

    billed = {}
    for each in simulator.predictions():
        billed[each.model] = round(billed.get(each.model, 0) + each.billed_usd, 6)
    assert billed == {name: each["usd"] for name, each in by_model.items()}
    assert (15, 2) == tuple(
        by_model["kwaivgi/kling-v2.1-master"][name] for name in ("video_seconds", "succeeded")
    )
    assert (2, 1) == tuple(by_model["qwen/qwen-image"][name] for name in ("images", "failures"))


def test_only_the_admin_sees_usage_by_caller(busy, simulator):
    by_caller = {each.pop("caller"): each for each in usage(busy, "?group_by=caller")["usage"]}
    own = {}
    for by in (USER, OTHER):
        (mine,) = usage(busy, "?group_by=caller", by=by)["usage"]
        own[mine.pop("caller")] = mine

    assert by_caller == own | {"admin": by_caller["admin"]}
    for token, by in (("r8_user", USER), ("r8_other", OTHER)):
        billed = sum(each.billed_usd for each in simulator.predictions() if each.token == token)
        assert round(billed, 6) == usage(busy, by=by)["total"]["usd"]
        by_model = usage(busy, "?group_by=model", by=by)["usage"]
        assert round(billed, 6) == round(sum(each["usd"] for each in by_model), 6)
    assert not any("r8_" in caller for caller in by_caller)


@pytest.mark.every_database
def test_usage_is_the_same_after_a_restart(make_app, simulator):
    app = make_app()
    app.test_client().post("/generate", json=PICTURE, headers=USER)
    before = usage(app.test_client(), "?group_by=caller")
    app.extensions["service"].close()

    assert before == usage(make_app().test_client(), "?group_by=caller")
    assert 0.025 == before["total"]["usd"] == simulator.counts().billed_usd


def test_a_range_includes_its_start_and_excludes_its_end(client):
    first = ended(client, submit(client))
    second = ended(client, submit(client, num_outputs=2))
    # The cost counts at the time of the end.
    (day,) = usage(client, "?group_by=day")["usage"]
    between = second["created_at"]

    def usd(query):
        return usage(client, query)["total"]["usd"]

    assert (0.05, 0.025) == (usd(f"?since={between}"), usd(f"?until={between}"))
    assert (
        0.075
        == usd(f"?since={first['created_at']}")
        == usd(f"?since={day['day']}")
        == usd("?until=2200-01-01")
    )
    assert (
        0
        == usd("?since=2200-01-01")
        == usd(f"?until={day['day']}")
        == usd(f"?since={between}&until={between}")
    )
    assert first["created_at"].startswith(day["day"])
    said = usage(client, "?since=2026-01-01&until=2200-01-01T12:00:00%2B02:00&group_by=model")
    assert ("2026-01-01T00:00:00.000Z", "2200-01-01T10:00:00.000Z", "model") == (
        said["since"],
        said["until"],
        said["group_by"],
    )


def test_unfinished_work_is_not_counted(client, simulator):
    target = submit_batch(client, "[[hang]]", "b")
    until(lambda: 1 == usage(client)["total"]["generations"])

    client.delete(f"/batches/{target}", headers=USER)

    assert 2 == usage(client)["total"]["generations"]
    assert simulator.counts().billed_usd == usage(client)["total"]["usd"]


@pytest.mark.every_database
def test_trainings_are_counted_by_themselves_and_with_all_work(app, client):
    submitted = ended(client, submit(client))
    training = generation(
        "trn_1",
        door=TRAINING,
        model="ann/trainer",
        state="succeeded",
        ended_at=1e9,
        cost_usd=1.5,
        simulated=False,
    )
    service = app.extensions["service"]

    async def write():
        service.ledger.upsert(training)
        await service.ledger.flush()

    service.loop.run(write())

    total = usage(client)["total"]
    assert (2, 1.525) == (total["generations"], total["usd"])
    assert (1, 1.5) == (total["trainings"], total["training_usd"])
    by_model = usage(client, "?group_by=model")["usage"]
    assert [(1, 1.5), (0, 0.0)] == [(each["trainings"], each["training_usd"]) for each in by_model]
    assert "succeeded" == submitted["status"]
    rows = client.get("/usage?group_by=model", headers={**ADMIN, "Accept": "text/csv"}).text.splitlines()
    assert rows[0].endswith(",trainings,training_usd")
    assert rows[1].endswith(",1,1.5")


@pytest.mark.every_database
def test_an_empty_period_has_no_groups_and_a_total_of_zero(client):
    for query in ("?group_by=model", "?group_by=caller", "?group_by=day"):
        said = usage(client, query, by=USER)
        assert ([], 0, 0) == (said["usage"], said["total"]["usd"], said["total"]["generations"])


def test_simulated_work_is_counted_apart(make_app):
    app = make_app(REPLICATE_SIMULATE=1)
    app.test_client().post("/generate", json=PICTURE, headers=USER)
    assert 1 == usage(app.test_client())["total"]["generations"]
    app.extensions["service"].close()

    assert 0 == usage(make_app().test_client())["total"]["generations"]
