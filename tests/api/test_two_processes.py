"""Two processes on one ledger in PostgreSQL: a caller gets the same from both."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.service_process import until
from tests.support.api_client import PICTURE, ended, meanwhile, submit
from tests.support.callers import ADMIN, USER
from tests.support.ndjson import NDJSON

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

KEY = {"Idempotency-Key": "order-1"}


@pytest.fixture
def two(make_app):
    """Two applications on one ledger."""

    def make(**settings):
        shared = {"FILES_SHARED": 1, "PUBLIC_URL": "http://service.test", **settings}
        return make_app(**shared), make_app(**shared)

    return make


def ask(app, body=PICTURE, path="/generate", *, by=USER, **headers):
    return app.test_client().post(path, json=body, headers=by | headers)


def test_requests_with_the_same_key_at_the_same_moment_make_one_generation(two, simulator):
    apps = two()

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda app: ask(app, **KEY), apps * 4))

    assert {200} == {each.status_code for each in answers}
    assert 1 == len({each.data for each in answers})
    assert 1 == simulator.counts().creations_accepted


def test_a_batch_of_one_process_is_streamed_by_the_other(two, simulator):
    one, other = two()
    body = {"model_name": "flux-dev", "prompts": ["[[hang]] a", "[[hang]] b", "[[fail]] c"]}

    with ThreadPoolExecutor(1) as callers:
        first = callers.submit(ask, one, body, "/generate-batch", **KEY)
        until(lambda: simulator.counts().creations_accepted)
        again = ask(other, body, "/generate-batch", **NDJSON, **KEY)  # returns when the first item has failed
        text = meanwhile(simulator.finish, lambda: again.text)

    *items, summary = map(json.loads, text.splitlines())
    assert first.result().json["results"] == sorted(items, key=lambda each: each["index"])
    assert (3, 2, 1) == (summary["total"], summary["succeeded"], summary["failed"])
    assert 3 == simulator.counts().creations_accepted


def test_the_other_process_resumes_the_work_of_one_that_has_stopped_for_its_owner(two, simulator):
    one, other = two()
    targets = [submit(one.test_client(), f"[[hang]] {number}") for number in range(3)]
    until(lambda: 3 == simulator.counts().in_flight)
    one.extensions["service"].close()

    with ThreadPoolExecutor(3) as owners:
        results = owners.map(lambda target: ended(other.test_client(), target)["status"], targets)
        assert ["succeeded"] * 3 == meanwhile(simulator.finish, lambda: list(results))
    assert 3 == simulator.counts().creations_accepted


def test_one_budget_holds_for_both(two):
    apps = two(BUDGET_USD_PER_DAY=0.1)

    with ThreadPoolExecutor(8) as callers:
        answers = callers.map(lambda app: ask(app, by=ADMIN).status_code, apps * 4)
        assert [200] * 4 + [402] * 4 == sorted(answers)
    for each in apps:
        client = each.test_client()
        assert 0 == client.get("/status", headers=ADMIN).json["budget_left_usd"]
        assert 0.1 == client.get("/usage", headers=ADMIN).json["total"]["usd"]
