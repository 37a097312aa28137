"""Metadata of requests, the filters of `GET /generations`, and the list of batches."""

import csv
import io
import json

import pytest

from tests.support.api_client import ended, picture, submit, submit_batch
from tests.support.callers import ADMIN, USER
from tests.support.named_keys import make_key
from tests.support.problem_documents import fields

pytestmark = pytest.mark.every_database


def prompts(client, query="", *, by=USER):
    answer = client.get(f"/generations{query}", headers=by)
    assert 200 == answer.status_code, answer.text
    return [each["prompt"] for each in answer.json["generations"]]


def test_metadata_is_kept_shown_and_sent_to_the_webhook_and_never_to_the_model(client, simulator):
    shop = {"project": "web “shop”", "Ünit.1": "it's 100 % \\ fine"}
    work = submit(client, metadata=shop)

    assert shop == ended(client, work)["metadata"]
    assert shop == client.get("/generations", headers=USER).json["generations"][0]["metadata"]
    [made] = simulator.predictions()
    assert "metadata" not in made.input
    assert "metadata" not in ended(client, submit(client))


def test_the_items_of_a_batch_have_its_metadata_and_each_its_own_before_it(client):
    items = [picture("a"), picture("b", metadata={"step": "2", "own": "x"})]
    body = {"requests": items, "metadata": {"project": "p", "step": "1"}}

    done = client.post("/generate-batch", json=body, headers=USER).json

    assert {"project": "p", "step": "1"} == done["metadata"]
    assert [{"project": "p", "step": "1"}, {"project": "p", "step": "2", "own": "x"}] == [
        each["metadata"] for each in done["results"]
    ]
    assert ["b"] == prompts(client, "?metadata.step=2")


@pytest.mark.parametrize(
    "wrong",
    [
        {str(number): "x" for number in range(17)},
        {"": "x"},
        {"n" * 65: "x"},
        {"n": "v" * 513},
        {"n": 3},
        {"n": None},
        ["n"],
        "n",
        {"n": "\0"},
        {"n": "\ud800"},
    ],
)
def test_metadata_that_is_no_small_object_of_texts_is_refused(client, wrong):
    answer = client.post("/generate", json=picture(metadata=wrong), headers=USER)

    assert all(each.startswith(("metadata", "body")) for each in fields(answer))


def test_a_form_has_metadata_as_json(client):
    data = {"model_name": "flux-dev", "prompt": "a fox", "metadata": json.dumps({"a": "1"})}

    assert {"a": "1"} == client.post(
        "/generate", data=data, headers=USER, content_type="multipart/form-data"
    ).json["metadata"]


def test_a_list_is_filtered_by_metadata_batch_kind_and_a_part_of_the_prompt_in_any_case(client):
    ended(client, submit(client, "A Red Füchsin", metadata={"project": "a", "n": "1"}))
    ended(client, submit(client, "50 %_ of a fox", metadata={"project": "a", "n": "2"}))
    batch = submit_batch(client, "one", "two", metadata={"project": "b"})
    ended(client, batch)

    assert ["50 %_ of a fox", "A Red Füchsin"] == prompts(client, "?metadata.project=a")
    assert ["50 %_ of a fox"] == prompts(client, "?metadata.project=a&metadata.n=2")
    assert [] == prompts(client, "?metadata.project=a&metadata.none=2")
    assert ["two", "one"] == prompts(client, f"?batch={batch}")
    assert ["A Red Füchsin"] == prompts(client, "?prompt=red+f%C3%BCCHS")
    assert ["50 %_ of a fox"] == prompts(client, "?prompt=%25_")
    assert [] == prompts(client, "?prompt=0_%25")
    assert 4 == len(prompts(client, "?kind=image"))
    assert [] == prompts(client, "?kind=video")


def test_a_filter_by_metadata_needs_a_name(client):
    assert ["metadata."] == fields(client.get("/generations?metadata.=x", headers=USER))
    assert ["metadata", "metadata."] == sorted(
        fields(client.get("/generations?metadata=x&metadata.=x&metadata.a=x", headers=USER))
    )


def test_an_admin_lists_the_work_of_a_key_by_its_id_or_name_and_that_of_all(client):
    shop, by_shop = make_key(client)
    _, by_other = make_key(client, "other")
    for by, text in ((by_shop, "shop's"), (by_other, "other's"), (ADMIN, "admin's"), (USER, "user's")):
        ended(client, submit(client, text, by=by), by=by)

    assert ["admin's"] == prompts(client, by=ADMIN) == prompts(client, "?key=admin", by=ADMIN)
    assert ["shop's"] == prompts(client, f"?key={shop}", by=ADMIN) == prompts(client, "?key=shop", by=ADMIN)
    assert 4 == len(prompts(client, "?key=*", by=ADMIN))
    assert 4 == len(prompts(client, "?key=*", by=make_key(client, "eyes", role="viewer")[1]))
    assert [] == prompts(client, "?key=nothing", by=ADMIN)
    assert 204 == client.delete(f"/keys/{shop}", headers=ADMIN).status_code
    assert ["shop's"] == prompts(client, "?key=shop", by=ADMIN)


def test_a_key_lists_only_its_own_work(client):
    shop, by_shop = make_key(client)
    other, by_other = make_key(client, "other")
    ended(client, submit(client, "shop's", by=by_shop), by=by_shop)
    submit_batch(client, "a", by=by_shop)

    assert ["a", "shop's"] == prompts(client, "?key=shop", by=by_shop)
    assert ["a", "shop's"] == prompts(client, f"?key={shop}", by=by_shop)
    for route in ("generations", "batches"):
        for key in ("*", "other", other, "admin"):
            assert 403 == client.get(f"/{route}?key={key}", headers=by_shop).status_code
        assert [] == client.get(f"/{route}", headers=by_other).json[route]
        assert 403 == client.get(f"/{route}?key=*", headers=USER).status_code


def test_batches_are_listed_the_latest_first_page_by_page(client):
    made = [submit_batch(client, f"{number}", metadata={"n": f"{number}"}) for number in range(5)]
    for each in made:
        ended(client, each)
    submit_batch(client, "another", by=ADMIN)

    found, cursor = [], ""
    while cursor is not None:
        page = client.get(
            f"/batches?limit=2&cursor={cursor}" if cursor else "/batches?limit=2", headers=USER
        ).json
        found += page["batches"]
        cursor = page["next_cursor"]

    assert made[::-1] == [each["id"] for each in found]
    assert [("completed", 1, {"succeeded": 1}, 0.025, {"n": "4"})] == [
        (each["status"], each["total"], each["counts"], each["actual_cost_usd"], each["metadata"])
        for each in found[:1]
    ]
    assert 6 == len(client.get("/batches?key=*", headers=ADMIN).json["batches"])
    assert 400 == client.get("/batches?state=failed", headers=USER).status_code


def test_metadata_outlives_a_restart(make_app):
    first = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = first.test_client()
    submit(client, "[[hang]]", by=ADMIN)
    waiting = submit_batch(client, "a", by=ADMIN, metadata={"project": "p"})
    first.extensions["service"].close()

    client = make_app().test_client()
    body = ended(client, waiting, by=ADMIN)

    assert {"project": "p"} == body["metadata"] == body["results"][0]["metadata"]


# ── Usage


def usage(client, query, *, by=ADMIN):
    answer = client.get(f"/usage{query}", headers=by)
    assert 200 == answer.status_code, answer.text
    return [
        (*(value for name, value in each.items() if name not in FIGURES), each["generations"])
        for each in answer.json["usage"]
    ]


FIGURES = {
    "generations", "succeeded", "failures", "canceled", "images", "video_seconds", "usd", "credits", "calls",
    "prompt_tokens", "completion_tokens", "thinking_tokens", "trainings", "training_usd",
}  # fmt: skip


@pytest.fixture
def spent(client):
    """Work of two keys, of which one has tags, of the admin and of a user. Returns the client and the first key."""
    shop, by_shop = make_key(client, "shop", tags={"team": "web"})
    _, by_other = make_key(client, "other", tags={"team": "=cmd"})
    for by, how in (
        (by_shop, {"metadata": {"project": "a"}}),
        (by_shop, {"metadata": {"project": "b"}, "model_name": "flux-schnell"}),
        (by_other, {"metadata": {"project": "a"}}),
        (ADMIN, {}),
        (USER, {}),
    ):
        ended(client, submit(client, by=by, **how), by=by)
    return client, shop, by_shop


def test_usage_is_grouped_by_key_with_its_name_and_by_its_tags_also_after_its_end(spent):
    client, shop, _ = spent
    assert 204 == client.delete(f"/keys/{shop}", headers=ADMIN).status_code

    by_key = usage(client, "?group_by=key")

    named = {key["name"]: count for key, count in by_key}
    assert {"admin": 1, "shop": 2, "other": 1, None: 1} == named
    assert shop in [key["id"] for key, _ in by_key]
    assert [("=cmd", 1), ("web", 2), (None, 2)] == usage(client, "?group_by=tag:team")
    assert [(None, 5)] == usage(client, "?group_by=tag:none")


def test_usage_is_grouped_by_two_at_once(spent):
    client, _, by_shop = spent
    dev, quick = "black-forest-labs/flux-dev", "black-forest-labs/flux-schnell"

    assert [("a", dev, 2), ("b", quick, 1), (None, dev, 2)] == usage(
        client, "?group_by=metadata:project,model"
    )
    assert [(dev, "web", 1), (dev, None, 2)] == [
        each for each in usage(client, "?group_by=model,tag:team") if each[0] == dev and each[1] != "=cmd"
    ]
    assert [("a", 1), ("b", 1)] == usage(client, "?group_by=metadata:project", by=by_shop)
    by_day = client.get("/usage?group_by=key,day", headers=ADMIN).json
    assert ("key,day", 4) == (by_day["group_by"], len(by_day["usage"]))


@pytest.mark.parametrize(
    "wrong", ["", "team", "tag:", "metadata:", "key,", "key,key", "key,day,model", "caller;day", "tag"]
)
def test_groups_that_are_none_are_refused(client, wrong):
    answer = client.get(f"/usage?group_by={wrong}", headers=ADMIN)

    assert ["group_by"] == fields(answer)


def test_usage_is_csv_for_those_that_accept_it(spent):
    client, shop, _ = spent
    answer = client.get("/usage?group_by=key,tag:team", headers={**ADMIN, "Accept": "text/csv"})

    assert "text/csv; charset=utf-8" == answer.content_type
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert ["key_id", "key_name", "tag:team", "generations"] == list(rows[0])[:4]
    [of_shop] = [each for each in rows if each["key_id"] == shop]
    assert ("shop", "web", "2") == (of_shop["key_name"], of_shop["tag:team"], of_shop["generations"])
    assert "'=cmd" in [each["tag:team"] for each in rows], "a spreadsheet would run it"
    for accepted in ("*/*", "application/json", "text/html"):
        shown = client.get("/usage", headers={**ADMIN, "Accept": accepted})
        assert "application/json" == shown.content_type
