"""What trainings reserve while they run, and what they cost in the end, for each budget."""

from threading import Thread

import pytest

from harness.service_process import until
from tests.support.callers import ADMIN
from tests.support.named_keys import make_key
from tests.support.training_calls import train, trained, training

pytestmark = pytest.mark.every_database

BOUND = 7200 * 0.001525
SIMULATED = {"REPLICATE_SIMULATE": "1"}


def left(client):
    return client.get("/status", headers=ADMIN).json["budget_left_usd"]


def spent(client, key):
    return client.get("/keys/self", headers=key).json["budget"]


def test_a_training_reserves_its_bound_until_its_real_cost_is_known(make_app, simulator):
    client = make_app(**SIMULATED, BUDGET_USD_PER_DAY=2 * BOUND - 1).test_client()
    _, key = make_key(client, budget_usd=50, budget_period="month")
    target = train(client, trigger_word="[[hang]]", by=key).json["id"]
    until(lambda: training(client, target)["status"] == "running")
    assert BOUND - 1 == pytest.approx(left(client))
    assert BOUND == pytest.approx(spent(client, key)["reserved_usd"])

    refused = train(client, destination="other")
    assert (402, "server") == (refused.status_code, refused.json["budget"])
    assert 202 == train(client, timeout=60).status_code
    simulator.finish()
    cost = trained(client, target)["cost_usd"]
    [made] = [each for each in simulator.trainings() if each.input["trigger_word"] == "[[hang]]"]
    assert made.billed_usd == pytest.approx(cost, abs=1e-5)
    until(lambda: left(client) > 2 * BOUND - 1.1)
    found = spent(client, key)
    assert (pytest.approx(cost), 0) == (found["used_usd"], found["reserved_usd"])
    assert 1 == simulator.counts().requests["model_create"]  # none for the refused one


def test_the_same_key_at_once_begins_one_training(make_app, simulator):
    app = make_app(**SIMULATED)
    answers = []

    def begin():
        with app.test_client() as client:
            answers.append(train(client, headers={"Idempotency-Key": "once"}))

    threads = [Thread(target=begin) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [202] * 4 == [each.status_code for each in answers]
    [target] = {each.json["id"] for each in answers}
    trained(app.test_client(), target)
    assert 1 == len(simulator.trainings())
    assert 1 == simulator.counts().requests["file"]
