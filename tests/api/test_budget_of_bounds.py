"""Budgets of work whose cost is not known beforehand, on each database."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.api_client import PICTURE, picture
from tests.support.callers import ADMIN
from tests.support.problem_documents import problem

pytestmark = pytest.mark.every_database


@pytest.fixture
def prices(tmp_path):
    """A file by which flux-dev is billed by the seconds that it runs."""
    path = tmp_path / "prices.toml"
    path.write_text('flux-dev = {usd = 0.001525, per = "running_second"}')
    return path


@pytest.fixture
def clients(make_app, prices, database_url):
    """Clients of all processes of a service."""

    def make(**settings):
        processes = 3 if database_url else 1
        return [make_app(PRICES_FILE=prices, **settings).test_client() for _ in range(processes)]

    return make


@pytest.fixture
def bound(make_app, prices, tmp_path):
    """The most USD that a picture may cost, as a service with a ledger of its own says."""
    alone = make_app(PRICES_FILE=prices, DATA_DIR=tmp_path / "alone", DATABASE_URL="", PUBLIC_URL="")
    return planned(alone.test_client())[1]


def planned(client):
    """The expected cost of a picture, the most that it may cost, and how the former is known."""
    shown = client.post("/generate", json=PICTURE | {"dry_run": True}, headers=ADMIN).json
    return tuple(shown[name] for name in ("estimated_cost_usd", "cost_bound_usd", "cost_basis"))


def ask(client, prompt="A lighthouse", **fields):
    return client.post("/generate", json=picture(prompt, **fields), headers=ADMIN)


def test_work_at_the_same_moment_never_exceeds_the_budget_with_its_bounds(clients, bound, simulator):
    several = clients(BUDGET_USD_PER_DAY=3.5 * bound)
    hanging = "[[hang]] a"

    with ThreadPoolExecutor(12) as callers:
        asked = [callers.submit(ask, several[number % len(several)], prompt=hanging) for number in range(12)]
        refused = 0
        while refused < 9:
            refused = sum(each.done() for each in asked)
        assert 3 >= simulator.counts().in_flight
        while not all(each.done() for each in asked):
            simulator.finish()
    answers = [each.result() for each in asked]

    assert [200] * 3 + [402] * 9 == sorted(each.status_code for each in answers)
    assert {"budget_exceeded", None} == {each.json.get("code") for each in answers}
    total = several[0].get("/usage", headers=ADMIN).json["total"]["usd"]
    assert total <= 3 * bound  # a prediction that is ended at once may have cost nothing


def test_a_prediction_of_no_time_is_known_as_well(clients):
    body = ask(clients()[0], "[[slow=0]] A lighthouse").json

    assert "declared" == body["cost_basis"]
    assert body["cost_usd"] < 0.01  # it takes a millisecond or two


def test_what_ended_work_has_not_cost_is_free_for_other_work(clients, bound):
    for client in clients(BUDGET_USD_PER_DAY=1.1 * bound):
        answer = ask(client)
        assert (200, "declared") == (answer.status_code, answer.json["cost_basis"]), answer.text
        assert 0 < answer.json["cost_usd"] < bound / 10


def test_a_refusal_by_the_bound_spends_nothing(clients, bound, simulator):
    client, *_ = clients()

    problem(ask(client, max_cost_usd=0.99 * bound), 402, "budget_exceeded")
    assert 0 == simulator.counts().creations_accepted
    assert 200 == ask(client, max_cost_usd=0.99 * bound, timeout=100).status_code


def test_the_cost_that_was_measured_is_expected_in_every_process(clients, bound):
    several = clients()
    assert (bound, bound, "bounded") == planned(several[0])
    cost = ask(several[0]).json["cost_usd"]
    assert {(cost, bound, "learned")} == {planned(client) for client in several}
