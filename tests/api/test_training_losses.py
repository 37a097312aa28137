"""Lost answers: a training is never begun twice, and one that was made is found by the address of its zip."""

import pytest

from tests.support.training_calls import train, trained

pytestmark = pytest.mark.every_database

SIMULATED = {"REPLICATE_SIMULATE": "1"}


@pytest.mark.parametrize("fault", [{"reset": "after"}, {"garbage": True}, {"truncate": True}])
def test_a_training_with_a_lost_answer_is_adopted(make_app, simulator, fault):
    client = make_app(**SIMULATED).test_client()
    simulator.inject(on="train", **fault)
    body = trained(client, train(client).json["id"])
    [made] = simulator.trainings()
    assert ("succeeded", made.id, 1) == (body["status"], body["training_id"], body["attempts"])


def test_twenty_lost_answers_are_twenty_trainings(make_app, simulator):
    client = make_app(**SIMULATED, TRAININGS_AT_ONCE=20).test_client()
    simulator.inject(on="train", times=20, reset="after")
    targets = [train(client).json["id"] for _ in range(20)]
    ended = [trained(client, each) for each in targets]
    made = {each.id: each.destination for each in simulator.trainings()}
    assert ["succeeded"] * 20 == [each["status"] for each in ended]
    assert {each["training_id"] for each in ended} == made.keys()
    assert 20 == len(made)
    assert {1} == {*simulator.trainings_by_url().values()}


def test_a_creation_that_is_refused_for_now_is_sent_again_with_another_zip(make_app, simulator):
    client = make_app(**SIMULATED).test_client()
    simulator.inject(on="train", status=429, headers={"Retry-After": "0"})
    body = trained(client, train(client).json["id"])
    assert ("succeeded", 2) == (body["status"], body["attempts"])
    assert 2 == simulator.counts().requests["file"]
    assert [] == simulator.uploads()


def test_a_destination_that_is_deleted_meanwhile_is_said_to_be_missing(make_app, simulator):
    client = make_app(**SIMULATED).test_client()
    missing = {"detail": "The specified training destination does not exist", "status": 404}
    simulator.inject(on="train", status=404, body=missing)
    body = trained(client, train(client).json["id"])
    assert "failed" == body["status"]
    assert "destination" in body["error"]["detail"]
    assert not body["error"]["retryable"]
    assert 0 == body["cost_usd"]
