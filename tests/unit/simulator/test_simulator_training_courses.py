"""Directives and faults choose how a training goes, and it is billed by the time that it ran."""

from collections import Counter

import pytest
import requests

from simulator import Options, running
from simulator.billing import USD_PER_SECOND
from tests.unit.simulator.creations import FAST, IMAGES, OSTRIS, run_trainings_in_virtual_time
from tests.unit.simulator.receivers import webhook_fields

H100 = USD_PER_SECOND["gpu-h100"]
NOT_MADE = "Training failed. Failed to create trained image after successful training run"


@pytest.fixture
def images(caller):
    return caller.upload(IMAGES)


@pytest.fixture
def train(caller, images):
    """Creates a training with a trigger word and returns it at its end."""
    destination = caller.destination()

    def run(word):
        made = caller.train(OSTRIS, destination, input_images=images, trigger_word=word)
        return caller.training(made.json())

    return run


@pytest.mark.parametrize(
    ("word", "status", "error"),
    [
        ("[[fail]]", "failed", NOT_MADE),
        ("[[fail=config.json missing]]", "failed", "config.json missing"),
        ("[[aborted]]", "aborted", None),
        ("[[canceled]]", "canceled", None),
        ("[[only=fast-flux-trainer]] [[fail]]", "succeeded", None),
        ("[[early]] [[text]] [[fewer]]", "succeeded", None),
    ],
)
def test_a_trigger_word_chooses_the_end(train, word, status, error):
    training = train(word)

    assert (status, error) == (training["status"], training["error"])
    assert (status == "succeeded") == (training["output"] is not None)


def test_the_name_of_a_destination_chooses_the_end(caller, images):
    made = caller.train(OSTRIS, caller.destination("fox[[fail]]"), input_images=images).json()

    assert ("failed", NOT_MADE) == tuple(caller.training(made)[each] for each in ("status", "error"))


def test_a_transient_failure_happens_once_for_each_destination(train):
    assert ["failed", "succeeded"] == [train(f"[[transient]] {word}")["status"] for word in "ab"]


def test_a_success_can_have_no_output_or_another_one(caller, train):
    assert ("succeeded", None) == tuple(train("[[empty]]")[each] for each in ("status", "output"))
    assert "https://x.example/w" == train('[[output="https://x.example/w"]]')["output"]
    name = f"{caller.username}/fox"
    assert caller.get(f"/v1/models/{name}").json()["latest_version"] is not None


def test_an_answer_that_is_lost_leaves_the_training(sim, caller, images):
    destination = caller.destination()
    sim.inject(on="train", reset="after")
    with pytest.raises(requests.ConnectionError):
        caller.train(OSTRIS, destination, input_images=images)

    (found,) = caller.get("/v1/trainings").json()["results"]
    assert images == found["input"]["input_images"]
    assert ({images: 1}, 1) == (sim.trainings_by_url(), sim.counts().answers_lost)


@pytest.mark.parametrize(
    ("fault", "created"), [({"status": 503}, 0), ({"reset": "before"}, 0), ({"garbage": True}, 1)]
)
def test_a_fault_of_a_creation_is_before_or_after_it(sim, caller, images, fault, created):
    destination = caller.destination()
    sim.inject(on="train", **fault)
    try:
        answer = caller.train(OSTRIS, destination, input_images=images)
        assert fault.get("status", 201) == answer.status_code
    except requests.ConnectionError:
        assert "reset" in fault

    assert created == sim.counts().trainings.created


def test_an_account_without_credit_cannot_train(sim, caller, images):
    destination = caller.destination()
    sim.account("r8_tester", credit="empty")

    assert 402 == caller.train(OSTRIS, destination, input_images=images).status_code


def test_the_list_can_be_behind(make_caller):
    with running(Options(list_lag=(60, 60), training_seconds=0)) as simulator:
        caller = make_caller(simulator.url)
        made = caller.train(OSTRIS, caller.destination(), input_images="https://x.example/a.zip")

        assert "succeeded" == made.json()["status"]
        assert [] == caller.get("/v1/trainings").json()["results"]


@pytest.mark.parametrize(
    ("word", "status", "ran"),
    [
        ("", "succeeded", 99),
        ("[[fail]]", "failed", 99),
        ("[[slow=600]]", "succeeded", 599),
        ("[[boot=300]]", "succeeded", 99),
        ("[[cold]]", "starting", 0),
        ("[[aborted]]", "aborted", 0),
    ],
)
def test_a_training_is_billed_by_the_seconds_that_it_ran(word, status, ran):
    (record,), counts, _ = run_trainings_in_virtual_time({"trigger_word": word})

    assert (status, round(ran * H100, 6)) == (record.status, record.billed_usd)
    assert (round(ran * H100, 6), 0.0) == (counts.trainings.billed_usd, counts.billed_usd)


def test_the_fast_trainer_is_billed_for_its_eight_machines():
    (record,), _, _ = run_trainings_in_virtual_time({}, trainer=FAST, seconds=121)

    assert round(120 * 8 * H100, 6) == record.billed_usd


def test_a_cancelled_training_is_billed_until_then():
    (record,), counts, _ = run_trainings_in_virtual_time({"trigger_word": "[[hang]]"}, cancelled_after=31)

    assert ("canceled", round(30 * H100, 6)) == (record.status, record.billed_usd)
    assert ({"canceled": 1}, 0) == (counts.trainings.finished, counts.trainings.in_flight)


def test_a_training_may_take_longer_than_a_prediction_may():
    (record,), _, _ = run_trainings_in_virtual_time({}, seconds=4000)

    assert ("succeeded", 4000) == (
        record.status,
        (record.completed_at - record.created_at).total_seconds(),
    )


def test_trainings_are_counted_beside_predictions():
    _, counts, _ = run_trainings_in_virtual_time({}, {"trigger_word": "[[fail]]"})

    assert (2, 0, 2) == (
        counts.trainings.created,
        counts.trainings.in_flight,
        counts.trainings.in_flight_peak,
    )
    assert {"succeeded": 1, "failed": 1} == counts.trainings.finished
    assert (0, {}) == (counts.creations_accepted, counts.finished)


def test_a_private_lora_is_billed_only_for_what_it_ran(sim, caller, train):
    version = train("FOX")["output"]["version"]
    body = {"version": version, "input": {"prompt": "[[fail]]"}}
    made = caller.post("/v1/predictions", json=body, headers={"Prefer": "wait"}).json()

    assert ("failed", 0.0) == (made["status"], sim.counts().billed_usd)


def test_webhooks_come_at_the_start_at_each_tenth_of_the_run_and_at_the_end(caller, images, receiver):
    fields = webhook_fields(receiver, "start", "logs", "completed")
    made = caller.train(
        OSTRIS,
        caller.destination(),
        body=fields | {"input": {"input_images": images, "trigger_word": "[[slow=0.2]]"}},
    ).json()
    bodies = receiver.bodies(12)

    assert {made["id"]} == {each["id"] for each in bodies}
    assert {"processing": 11, "succeeded": 1} == Counter(each["status"] for each in bodies)
    assert all(each["urls"]["get"].endswith(f"/v1/trainings/{made['id']}") for each in bodies)


def test_without_a_filter_a_training_sends_its_output_and_its_end(caller, images, receiver):
    made = caller.train(
        OSTRIS, caller.destination(), body=webhook_fields(receiver) | {"input": {"input_images": images}}
    ).json()
    shown = receiver.bodies(2)

    assert ["processing", "succeeded"] == sorted(each["status"] for each in shown)
    assert [caller.training(made)["output"]] * 2 == [each["output"] for each in shown]
    assert all(headers["webhook-signature"].startswith("v1,") for headers, _ in receiver.accepted)
