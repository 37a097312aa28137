"""What models cost that have no price: never less than the simulator bills, and never more than their bound."""

from itertools import cycle

import pytest

from tests.support.api_client import ASYNC, ended
from tests.support.callers import ADMIN
from tests.support.problem_documents import problem

pytestmark = pytest.mark.every_database

WATERCOLOR, CONFIDENTIAL, DEPLOYMENT = (
    "acme/watercolor",
    "acme/confidential",
    "deployments/acme/fast-upscaler",
)
OWNER = {"X-Replicate-API-Key": "r8_acme"}

H100 = 0.001525
BOUND = 1.83
"""USD: ten minutes of waiting and ten of running."""


@pytest.fixture
def clients(make_app, database_url):
    """Clients of all processes of a service: one on SQLite, three on PostgreSQL."""

    def make(**settings):
        return cycle(make_app(**settings).test_client() for _ in range(3 if database_url else 1))

    return make


def generate(client, name, *, by=ADMIN, more=None, **inputs):
    return client.post("/generate", json={"model_name": name, "input": inputs, **(more or {})}, headers=by)


def money(body) -> tuple:
    return tuple(body[name] for name in ("estimated_cost_usd", "cost_bound_usd", "cost_basis"))


def test_the_cost_of_a_community_model_is_learned_from_what_it_ran(client, simulator):
    before = generate(client, WATERCOLOR, prompt="a", more={"dry_run": True}).json
    body = generate(client, WATERCOLOR, prompt="a").json
    after = generate(client, WATERCOLOR, prompt="a", more={"dry_run": True}).json

    assert (BOUND, BOUND, "bounded") == money(before)
    assert "learned" == body["cost_basis"]
    assert 0 < simulator.counts().billed_usd <= body["cost_usd"] < H100
    assert (body["cost_usd"], BOUND, "learned") == money(after)
    assert body["cost_usd"] == client.get("/usage", headers=ADMIN).json["total"]["usd"]


def test_the_failure_of_a_public_model_costs_nothing(client, simulator):
    body = generate(client, WATERCOLOR, prompt="[[fail]] a").json

    assert 0 == body["cost_usd"] == simulator.counts().billed_usd


def test_the_failure_of_a_private_model_is_billed(client, simulator):
    body = generate(client, CONFIDENTIAL, by=OWNER, prompt="[[fail]] a").json

    assert "generation_failed" == body["code"]
    assert 0 < simulator.counts().billed_usd <= body["cost_usd"] + 1e-6
    assert "learned" == body["cost_basis"]


def test_unfinished_work_shows_its_bound(client, simulator):
    answer = client.post(
        "/generate",
        json={
            "model_name": WATERCOLOR,
            "input": {"prompt": "[[hang]] a"},
            "timeout": 60,
            "start_timeout": 40,
        },
        headers={**ADMIN, **ASYNC},
    )
    shown = client.get(f"/generations/{answer.json['id']}", headers=ADMIN).json

    assert (0, 0.1525, "bounded") == tuple(
        shown[name] for name in ("cost_usd", "cost_bound_usd", "cost_basis")
    )
    client.delete(f"/generations/{answer.json['id']}", headers=ADMIN)
    body = ended(client, answer.json["id"], by=ADMIN)
    assert simulator.counts().billed_usd <= body["cost_usd"] <= 0.1525


def test_a_model_without_a_price_is_refused_unless_its_bound_fits(clients, simulator):
    several = clients(BUDGET_USD_PER_DAY=1)

    refused = problem(generate(next(several), WATERCOLOR, prompt="a"), 402, "budget_exceeded")
    assert "acme/watercolor has no price, so each prediction counts as 1200 s" in refused["detail"]
    assert 0 == simulator.counts().creations_accepted
    short = {"timeout": 300, "start_timeout": 300}
    assert 200 == generate(next(several), WATERCOLOR, prompt="a", more=short).status_code
    refused = problem(
        generate(next(several), WATERCOLOR, prompt="a", more={**short, "max_cost_usd": 0.9}),
        402,
        "budget_exceeded",
    )
    assert "more than max_cost_usd: 0.9" in refused["detail"]


def test_a_deployment_counts_likewise_unless_the_operator_has_set_its_price(clients, tmp_path, simulator):
    prices = tmp_path / "prices.toml"
    prices.write_text(f'"{DEPLOYMENT}" = {{usd = 0.05, per = "call"}}')
    image = {"img": "https://example.com/face.png"}
    several = clients(PRICES_FILE=prices, BUDGET_USD_PER_DAY=0.06)

    body = generate(next(several), DEPLOYMENT, **image).json
    assert (0.05, "declared") == (body["cost_usd"], body["cost_basis"])
    problem(generate(next(several), DEPLOYMENT, **image), 402, "budget_exceeded")


def test_a_deployment_without_a_price_pays_for_its_setup(client, simulator):
    shown = client.get(f"/models/{DEPLOYMENT}", headers=ADMIN).json
    body = generate(client, DEPLOYMENT, img="https://example.com/face.png").json

    assert shown["price"] is None
    assert {"usd_per_running_second": H100, "bills_setup_and_idle": True} == shown["unpriced"]
    assert 0 < simulator.counts().billed_usd <= body["cost_usd"] + 1e-6
    assert "learned" == body["cost_basis"]
