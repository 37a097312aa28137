"""The daily budget and `max_cost_usd`: both refuse work before anything is spent."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import BudgetExceeded
from generations.budget import Budget
from generations.budgets import check_cost
from harness.service_process import until
from ledger import DAY
from tests.support.api_client import CHECKED, PICTURE, ended, picture, submit, submit_batch
from tests.support.callers import ADMIN, USER
from tests.support.declarations import MODELS
from tests.support.problem_documents import fields, problem

PAYING = "admin"
"""The caller whose work the server's token pays for."""

TODAY = int(time.time() // DAY)
NOON = (TODAY + 0.5) * DAY
"""Unix time. The day may end while the tests run."""


class Clock:
    def __init__(self, *moment: int) -> None:
        self.now = datetime(*moment, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


def refused(budget: Budget, usd: float) -> bool:
    try:
        budget.reserve(PAYING, usd)
    except BudgetExceeded:
        return True
    return False


@pytest.mark.slow
def test_a_prediction_that_could_not_be_cancelled_counts(make_app, simulator):
    client = make_app(BUDGET_USD_PER_DAY=0.05).test_client()
    simulator.inject(on="cancel", times=1000, status=403)

    answers = [
        client.post("/generate", json=PICTURE | {"prompt": "[[hang]]", "timeout": 1}, headers=ADMIN)
        for _ in range(3)
    ]

    assert [500, 500, 402] == [answer.status_code for answer in answers]
    simulator.finish()
    assert 0.05 == simulator.counts().billed_usd == client.get("/usage", headers=ADMIN).json["total"]["usd"]


def test_without_a_budget_nothing_is_refused():
    assert 1e12 == Budget().reserve(PAYING, 1e12)


def test_waiting_work_counts_as_much_as_finished_work():
    budget = Budget(1)

    budget.settle(PAYING, reserved=budget.reserve(PAYING, 0.4), cost=0.4)
    budget.reserve(PAYING, 0.5)

    assert refused(budget, 0.2)
    assert not refused(budget, 0.1)


def test_work_that_costs_less_than_expected_releases_the_difference():
    budget = Budget(1)
    budget.settle(PAYING, reserved=budget.reserve(PAYING, 1), cost=0.25)

    assert not refused(budget, 0.75)
    assert refused(budget, 0.01)


def test_the_last_cent_may_be_spent_despite_float_rounding():
    budget = Budget(0.3)

    assert [False, False, False, True] == [refused(budget, 0.1) for _ in range(4)]


def test_a_refusal_states_the_cost_and_the_budget_left():
    budget = Budget(1, clock=lambda: NOON)
    budget.begin({TODAY: 0.75})

    with pytest.raises(BudgetExceeded, match=r"up to 0\.5 USD, and 0\.25 of today's 1 USD are left"):
        budget.reserve(PAYING, 0.5)


def test_an_overspent_budget_is_not_reported_as_negative():
    budget = Budget(1, clock=lambda: NOON)
    budget.begin({TODAY: 3})

    with pytest.raises(BudgetExceeded, match=r"and 0 of today's 1 USD"):
        budget.reserve(PAYING, 0.01)


def test_a_budget_of_zero_accepts_only_free_work():
    assert [False, True] == [refused(Budget(0), usd) for usd in (0, 0.003)]


def test_a_day_ends_at_midnight_utc_and_waiting_work_counts_for_the_next():
    clock = Clock(2026, 2, 28, 23, 59, 59)
    budget = Budget(1, clock=clock)
    budget.settle(PAYING, reserved=budget.reserve(PAYING, 0.5), cost=0.5)
    waiting = budget.reserve(PAYING, 0.5)
    clock.now += 1

    assert [False, True] == [refused(budget, 0.5), refused(budget, 0.1)]
    budget.settle(PAYING, reserved=waiting, cost=0)
    assert not refused(budget, 0.5)


def test_costs_of_an_earlier_process_on_another_day_do_not_count_today():
    clock = Clock(2026, 1, 1)
    budget = Budget(1, clock=clock)
    budget.begin({int(clock.now // DAY): 1})
    assert refused(budget, 0.1)

    clock.now += DAY

    assert not refused(budget, 1)


@pytest.mark.parametrize("days", [1, -1, 40, -40])
def test_setting_the_clock_to_another_day_and_back_loses_no_costs(days):
    clock = Clock(2026, 7, 1, 12)
    budget = Budget(1, clock=clock)
    budget.settle(PAYING, reserved=budget.reserve(PAYING, 0.4), cost=0.4)

    clock.now += days * DAY
    budget.settle(PAYING, reserved=budget.reserve(PAYING, 0.3), cost=0.3)
    clock.now -= days * DAY

    spent_today = 0.7 if days > 0 else 0.4  # later dates count, earlier ones do not
    assert refused(budget, 1 - spent_today + 0.01)
    assert not refused(budget, 1 - spent_today)


def test_a_clock_that_is_set_back_counts_the_costs_of_that_day():
    clock = Clock(2026, 7, 2)
    budget = Budget(1, clock=clock)
    budget.begin({int(clock.now // DAY) - 1: 0.5, int(clock.now // DAY): 0.3})
    assert not refused(budget, 0.6)
    budget.settle(PAYING, reserved=0.6, cost=0)

    clock.now -= DAY

    assert refused(budget, 0.3)
    assert not refused(budget, 0.2)


def test_work_accepted_earlier_is_reserved_even_beyond_the_budget():
    budget = Budget(1, clock=lambda: NOON)
    budget.begin({TODAY: 0.9})

    budget.hold(PAYING, 0.5)

    assert refused(budget, 0.01)


@given(
    st.floats(0, 10),
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), max_size=30),
)
def test_no_history_spends_more_than_the_budget_if_prices_are_right(most, wishes):
    budget, spent, waiting = Budget(most), 0.0, []
    for usd, part in wishes:
        if not refused(budget, usd):
            waiting.append((usd, usd * part))
        if len(waiting) > 2:
            reserved, cost = waiting.pop(0)
            spent += cost
            budget.settle(PAYING, reserved=reserved, cost=cost)

    assert spent + sum(usd for usd, _ in waiting) <= most + 1e-6


@pytest.mark.parametrize(("usd", "most"), [(0.1, None), (0.1, 0.1), (0, 0), (0.1 + 0.2, 0.3)])
def test_a_cost_equal_to_the_maximum_is_accepted(usd, most):
    check_cost(usd, most)


def test_a_cost_above_the_maximum_is_refused_with_both_amounts():
    with pytest.raises(
        BudgetExceeded, match=r"^The batch may cost up to 0\.1 USD, more than max_cost_usd: 0\.09\.$"
    ):
        check_cost(0.1, 0.09, where="The batch")


# ── Through the HTTP API


def test_max_cost_usd_refuses_before_anything_is_spent(client, simulator):
    body = PICTURE | {"num_outputs": 4}

    for most in (0, 0.0999):
        problem(
            client.post("/generate", json=body | {"max_cost_usd": most}, headers=USER), 402, "budget_exceeded"
        )
    assert CHECKED == dict(simulator.counts().requests)
    assert 200 == client.post("/generate", json=body | {"max_cost_usd": 0.1}, headers=USER).status_code
    assert 0.1 == simulator.counts().billed_usd


@pytest.mark.parametrize("most", [-1, "1", True, [], 1e999])
def test_an_invalid_max_cost_usd_is_refused(client, most):
    for path, body in (
        ("/generate", PICTURE),
        ("/generate-batch", {"model_name": "flux-dev", "prompts": ["a"]}),
    ):
        if most != 1e999:
            assert ["max_cost_usd"] == fields(
                client.post(path, json=body | {"max_cost_usd": most}, headers=USER)
            )
        else:
            assert 400 == client.post(path, json=body | {"max_cost_usd": most}, headers=USER).status_code


def test_max_cost_usd_applies_to_a_batch_and_to_each_item(client, simulator):
    prompts = {"model_name": "flux-dev", "prompts": ["a", "b"]}
    items = [PICTURE, PICTURE | {"num_outputs": 2, "max_cost_usd": 0.04}]

    def ask(body):
        return client.post("/generate-batch", json=body, headers=USER)

    whole = problem(ask(prompts | {"max_cost_usd": 0.04}), 402, "budget_exceeded")
    item = problem(ask({"requests": items}), 402, "budget_exceeded")
    assert "The batch may cost up to 0.05" in whole["detail"]
    assert "requests[1] may cost up to 0.05" in item["detail"]
    assert CHECKED == dict(simulator.counts().requests)
    assert 200 == ask(prompts | {"max_cost_usd": 0.05}).status_code


def test_a_fallback_above_the_maximum_of_the_request_is_passed_over_and_reported(client, simulator):
    body = picture("[[only=flux-dev,flux-kontext-max]] [[fail]] a", fallback=["kontext-max", "qwen-image"])

    answered = client.post("/generate", json=body | {"max_cost_usd": 0.05}, headers=USER).json

    assert ["flux-dev", "flux-kontext-max", "qwen-image"] == [
        each["model_name"].split("/")[1] for each in answered["attempts"]
    ]
    assert "max_cost_usd" in answered["attempts"][1]["error"]["detail"]
    assert [None, "qwen-image"] == [
        answered["attempts"][1]["prediction_id"],
        answered["model_name"].split("/")[1],
    ]
    assert 0.025 == answered["cost_usd"] == simulator.counts().billed_usd


def test_the_cost_of_the_first_model_counts_toward_the_maximum_of_the_next(client, simulator):
    body = picture("[[only=flux-dev]] [[hang]]", fallback=["kontext-max"], timeout=1)
    items = [body | {"max_cost_usd": most} for most in (0.105, 0.104)]

    enough, too_little = client.post("/generate-batch", json={"requests": items}, headers=USER).json[
        "results"
    ]

    assert (True, 0.105) == (enough["success"], enough["cost_usd"])
    assert (False, 0.025) == (too_little["success"], too_little["cost_usd"])
    assert "more than max_cost_usd: 0.104" in too_little["attempts"][1]["error"]["detail"]
    assert 0.13 == simulator.counts().billed_usd


def test_a_fallback_above_the_maximum_of_the_batch_is_passed_over(client, simulator):
    failing = "[[only=flux-dev]] [[fail]] [[slow=0]]"
    body = {
        "model_name": "flux-dev",
        "prompts": [f"a {failing}", f"b {failing}"],
        "fallback": ["flux-kontext-max"],
    }

    def cost(most):
        answered = client.post("/generate-batch", json=body | {"max_cost_usd": most}, headers=USER).json
        return answered["succeeded"], answered["actual_cost_usd"]

    assert [(0, 0.0), (1, 0.08), (2, 0.16)] == [cost(most) for most in (0.05, 0.105, 0.16)]
    assert 0.24 == simulator.counts().billed_usd


def test_an_attempt_that_timed_out_counts_in_the_budget_beside_the_next(make_app, simulator):
    client = make_app(BUDGET_USD_PER_DAY=0.1).test_client()
    late = picture("[[only=flux-dev]] [[hang]]", fallback=["qwen-image"], timeout=1)

    with ThreadPoolExecutor(4) as callers:
        answered = list(callers.map(lambda _: client.post("/generate", json=late, headers=ADMIN), range(4)))

    assert 0.1 == simulator.counts().billed_usd
    assert 4 * [(500, "generation_timeout")] == [
        (each.status_code, each.json.get("code")) for each in answered
    ]


def test_the_daily_budget_counts_waiting_work(make_app, simulator):
    client = make_app(BUDGET_USD_PER_DAY=0.1, REPLICATE_CONCURRENT_LIMIT=1).test_client()
    running = submit(client, "[[hang]]", by=ADMIN)
    until(lambda: 1 == simulator.counts().in_flight)
    waiting = submit_batch(client, "a", "b", by=ADMIN)

    two = client.post("/generate", json=PICTURE | {"num_outputs": 2}, headers=ADMIN)
    problem(two, 402, "budget_exceeded")
    three = {"model_name": "flux-dev", "prompts": ["a", "b"]}
    problem(client.post("/generate-batch", json=three, headers=ADMIN), 402, "budget_exceeded")
    last = submit(client, by=ADMIN)
    problem(client.post("/generate", json=PICTURE, headers=ADMIN), 402, "budget_exceeded")

    client.delete(f"/batches/{waiting}", headers=ADMIN)
    client.delete(f"/generations/{running}", headers=ADMIN)
    assert "succeeded" == ended(client, last, by=ADMIN)["status"]
    spent = simulator.counts().billed_usd
    assert 0.05 == spent  # the running generation is billed, the queued one is not
    assert 200 == client.post("/generate", json=PICTURE | {"num_outputs": 2}, headers=ADMIN).status_code
    problem(client.post("/generate", json=PICTURE, headers=ADMIN), 402, "budget_exceeded")


def test_a_users_own_token_neither_spends_the_budget_nor_is_refused_for_it(make_app, simulator):
    app = make_app(BUDGET_USD_PER_DAY=0.05, REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    batch = {"model_name": "flux-dev", "prompts": 3 * ["[[slow=0]] a"]}
    fallback = picture("[[only=flux-dev]] [[fail]] [[slow=0]]", fallback=["kontext-max"])

    assert 200 == client.post("/generate-batch", json=batch, headers=USER).status_code
    assert 200 == client.post("/generate", json=fallback, headers=USER).status_code
    assert 0.155 == simulator.counts().billed_usd
    submit(client, "[[hang]]")
    until(lambda: 1 == simulator.counts().in_flight)
    submit_batch(client, *(3 * ["a"]))
    app.extensions["service"].close()

    client = make_app(BUDGET_USD_PER_DAY=0.05).test_client()  # the same after a restart
    two = PICTURE | {"num_outputs": 2}
    assert 200 == client.post("/generate", json=two, headers=ADMIN).status_code
    problem(client.post("/generate", json=PICTURE, headers=ADMIN), 402, "budget_exceeded")
    assert 200 == client.post("/generate", json=PICTURE, headers=USER).status_code


def test_failures_do_not_change_the_days_budget(make_app):
    client = make_app(BUDGET_USD_PER_DAY=0.03).test_client()

    for prompt, status in (("[[fail]]", 500), ("[[nsfw]]", 422), ("a", 200), ("b", 402)):
        assert status == client.post("/generate", json=picture(prompt), headers=ADMIN).status_code


def test_a_restart_keeps_the_costs_of_the_day(make_app, simulator):
    app = make_app(BUDGET_USD_PER_DAY=0.1, REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    client.post("/generate", json=PICTURE, headers=ADMIN)
    submit(client, "[[hang]]", by=ADMIN)
    until(lambda: 1 == simulator.counts().in_flight)
    waiting = submit(client, by=ADMIN)
    app.extensions["service"].close()

    client = make_app(BUDGET_USD_PER_DAY=0.1).test_client()

    two = client.post("/generate", json=PICTURE | {"num_outputs": 2}, headers=ADMIN)
    problem(two, 402, "budget_exceeded")
    assert 200 == client.post("/generate", json=PICTURE, headers=ADMIN).status_code
    ended(client, waiting, by=ADMIN)
    problem(client.post("/generate", json=PICTURE, headers=ADMIN), 402, "budget_exceeded")
    simulator.finish()
    assert 0.1 == simulator.counts().billed_usd


def test_a_fallback_beyond_the_daily_budget_is_passed_over(make_app, simulator):
    client = make_app(BUDGET_USD_PER_DAY=0.05).test_client()
    body = picture("[[only=flux-dev]] [[fail]] a", fallback=["kontext-max"])

    answer = client.post("/generate", json=body, headers=ADMIN)

    assert answer.status_code >= 400
    assert "of today's 0.05 USD are left" in answer.json["attempts"][1]["error"]["detail"]
    assert 1 == simulator.counts().creations_accepted
    assert 200 == client.post("/generate", json=PICTURE | {"num_outputs": 2}, headers=ADMIN).status_code


def test_a_dry_run_is_not_refused_for_its_cost(make_app):
    client = make_app(BUDGET_USD_PER_DAY=0).test_client()
    body = {"model_name": "flux-dev", "prompts": ["a"], "dry_run": True}

    assert 0.025 == client.post("/generate-batch", json=body, headers=ADMIN).json["estimated_cost_usd"]


def test_every_model_has_a_price():
    assert all(model.cost({"prompt": "a"}) > 0 for model in MODELS.values())
