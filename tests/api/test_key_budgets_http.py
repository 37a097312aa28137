"""The budget of a named key over HTTP, on each database: refusals, and what Replicate bills."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.api_client import ended, picture, submit
from tests.support.callers import ADMIN
from tests.support.named_keys import make_key

pytestmark = pytest.mark.every_database

PRICE = 0.025
"""USD, of a picture of flux-dev."""


def make(client, usd, **more):
    """The id of a new key with this budget for a day, and the header that sends it."""
    return make_key(client, budget_usd=usd, budget_period="day", **more)


def post(client, by, prompt="a fox", **how):
    return client.post("/generate", json=picture(prompt, **how), headers=by)


def test_parallel_requests_of_a_key_never_bill_more_than_its_budget(app, simulator):
    _, by = make(app.test_client(), 5.5 * PRICE)
    prompts = ["a fox", "[[fail]]", "[[transient]]", "a cat"] * 5

    with ThreadPoolExecutor(20) as callers:
        answers = list(callers.map(lambda prompt: post(app.test_client(), by, prompt), prompts))

    refused = [each.json for each in answers if each.status_code == 402]
    assert refused
    assert {("shop", "day")} == {(each["budget"], each["period"]) for each in refused}
    simulator.finish()
    assert 0 < simulator.counts().billed_usd <= 5.5 * PRICE
    spent = app.test_client().get("/keys/self", headers=by).json["budget"]
    assert simulator.counts().billed_usd == pytest.approx(spent["used_usd"])
    assert 0 == spent["reserved_usd"]


def test_a_raised_budget_holds_from_the_next_request(client):
    key_id, by = make(client, PRICE)
    assert [200, 402] == [post(client, by).status_code for _ in range(2)]

    changed = client.patch(f"/keys/{key_id}", json={"budget_usd": 2 * PRICE}, headers=ADMIN)

    assert 200 == changed.status_code
    assert [200, 402] == [post(client, by).status_code for _ in range(2)]
    assert 200 == post(client, ADMIN).status_code


def test_a_fallback_beyond_the_budget_of_the_key_is_passed_over(client, simulator):
    _, by = make(client, 1.2 * PRICE)

    answer = post(client, by, "[[only=flux-dev]] [[fail]]", fallback=["kontext-max"])

    assert 500 == answer.status_code
    assert ["kontext" in each["model_name"] for each in answer.json["attempts"]] == [False, True]
    assert "the key “shop” has for this day" in answer.json["attempts"][1]["error"]["detail"]
    assert 1 == simulator.counts().creations_accepted


def test_a_key_keeps_to_its_budget_after_a_restart(make_app):
    first = make_app()
    _, by = make(first.test_client(), 2 * PRICE)
    ended(first.test_client(), submit(first.test_client(), by=by), by=by)
    running = submit(first.test_client(), "[[slow=2]]", by=by)
    first.extensions["service"].close()

    client = make_app().test_client()

    assert 402 == post(client, by).status_code
    assert "succeeded" == ended(client, running, by=by)["status"]
    assert 402 == post(client, by).status_code
    assert 2 * PRICE == pytest.approx(client.get("/keys/self", headers=by).json["budget"]["used_usd"])
