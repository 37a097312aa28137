"""`GET /metrics`: the figures of the status and of the ledger, as Prometheus reads them."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.service_process import until
from tests.support.callers import ADMIN, PICTURE, USER
from tests.support.problem_documents import problem
from tests.support.training_calls import train


def scraped(client, **headers):
    """The samples by name and labels."""
    answer = client.get("/metrics", headers=ADMIN | headers)
    assert 200 == answer.status_code
    families = text_string_to_metric_families(answer.text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


@pytest.fixture
def client(make_app):
    return make_app(BUDGET_USD_PER_DAY=1).test_client()


def test_the_figures_are_those_of_the_status_and_of_the_usage(client):
    before = scraped(client)
    cost = client.post("/generate", json=PICTURE, headers=ADMIN).json["cost_usd"]
    client.post("/generate", json=PICTURE | {"prompt": "[[fail]] a"}, headers=ADMIN)

    after = scraped(client)
    status = client.get("/status", headers=ADMIN).json
    model = client.get("/usage?group_by=model", headers=ADMIN).json["usage"][0]
    assert 0 == before.get(("rcg_generations_total", "succeeded"), 0)
    assert 1 == after["rcg_generations_total", "succeeded"] == after["rcg_generations_total", "failed"]
    assert status["concurrency"]["current_rate_per_minute"] == after["rcg_rate",]
    assert status["concurrency"]["concurrent_limit"] == after["rcg_concurrent_limit",]
    assert status["budget_left_usd"] == pytest.approx(after["rcg_budget_left_usd",])
    assert before["rcg_budget_left_usd",] - cost == pytest.approx(after["rcg_budget_left_usd",])
    assert model["usd"] == pytest.approx(after["rcg_usd_last_hour", model["model"]])
    assert 1 == after["rcg_failures_last_hour", "generation_failed"]
    assert 1 == after["rcg_build_info", status["version"]]


def test_trainings_that_run_and_wait_are_figures_of_their_own(make_app, simulator):
    client = make_app(REPLICATE_SIMULATE=1, TRAININGS_AT_ONCE=1).test_client()
    for number in range(2):
        train(client, trigger_word=f"[[hang]] {number}")
    until(simulator.trainings)
    found = scraped(client)
    names = ("rcg_trainings", "rcg_trainings_waiting", "rcg_concurrent", "rcg_waiting")
    assert [1, 1, 0, 0] == [found[name,] for name in names]


def test_a_figure_that_is_not_known_is_left_out(make_app):
    found = scraped(make_app().test_client())

    assert ("rcg_budget_left_usd",) not in found
    assert ("rcg_clock_skew_seconds",) not in found


def test_the_format_is_that_which_the_scraper_prefers(client):
    plain = client.get("/metrics", headers=ADMIN)
    open_metrics = client.get(
        "/metrics", headers=ADMIN | {"Accept": "application/openmetrics-text;version=1.0.0"}
    )

    assert plain.content_type.startswith("text/plain; version=0.0.4")
    assert open_metrics.content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert open_metrics.text.endswith("# EOF\n")


def test_only_an_admin_may_read_them(client):
    problem(client.get("/metrics"), 401, "unauthenticated")
    problem(client.get("/metrics", headers=USER), 403, "forbidden")
