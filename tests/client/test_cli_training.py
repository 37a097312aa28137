"""`rcg train`, and the other commands with the ids of trainings."""

import json
import re

import httpx
import pytest

from tests.client.conftest import ADMIN

pytestmark = pytest.mark.slow

TRAIN = ("train", "photos", "--name", "dog", "--trigger", "TOK")


@pytest.fixture
def train(rcg, photos):
    """Trains the model `dog` on the folder `photos`."""
    return lambda *options: rcg(*TRAIN, "--create", *options)


def test_it_shows_what_it_costs_and_prints_the_model_and_the_path_of_the_weights(train, tmp_path):
    status, output, errors = train("-p", "steps=100", "-o", "out")

    model, path = output.splitlines()
    assert 0 == status
    assert re.fullmatch(r"[\w-]+/dog:[0-9a-f]{64}", model)
    assert [path] == [f"out/{each.name}" for each in (tmp_path / "out").iterdir()]
    assert "on 5 images, 1 with captions." in errors
    assert re.search(r"about [\d.]+ USD, at most 10.98 USD, and take about \d+:\d\d\.", errors)
    assert 1 == errors.count("without a caption")


def test_a_dry_run_spends_no_money_and_names_a_missing_destination(rcg, photos, simulator):
    before = simulator.counts().trainings
    missing = ("train", "photos", "-d", "no-such-dog", "--dry-run")

    status, output, _ = rcg(*missing)
    assert (0, True) == (status, "no-such-dog does not exist at Replicate: --create makes it." in output)
    assert "it will be made, public." in rcg(*missing, "--create", "--public")[1]
    assert {"destination_exists": False, "images": 5}.items() <= json.loads(
        rcg(*missing, "--json")[1]
    ).items()
    status, output, errors = rcg(*missing[:-1])
    assert (2, "", True) == (status, output, "--create makes it" in errors)
    assert before == simulator.counts().trainings


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (["none", "-d", "dog"], 2, "none: No such file"),
        (["empty", "-d", "dog"], 2, "has no images"),
        (["photos"], 2, "--destination"),
        (["photos", "-d", "dog", "--public"], 2, "--create"),
        (["photos", "-d", "dog", "-p", "steps"], 2, "NAME=VALUE"),
        (["photos", "-d", "dog", "--create", "-p", "training_steps=5"], 1, "input.training_steps"),
        (["photos", "-d", "dog", "--create", "--trainer", "black-forest-labs/flux-dev"], 1, "trainer"),
        (["photos", "-d", "dog", "--create", "--max-cost", "0.5"], 1, "budget_exceeded"),
    ],
)
def test_a_refused_training_is_a_sentence_and_a_status(rcg, photos, tmp_path, options, status, sentence):
    (tmp_path / "empty").mkdir()

    found, output, errors = rcg("train", *options)

    assert (status, "") == (found, output)
    assert sentence in errors


def test_json_is_the_answer_of_the_service(train, rcg, service):
    target = json.loads(train("--json", "--no-wait")[1])["id"]
    watched = rcg("watch", target, "--json")[1]

    expected = httpx.get(f"{service.url}/trainings/{target}", headers={"X-Admin-API-Key": ADMIN}).text
    assert expected == watched == rcg("get", target, "--json")[1]
    assert "succeeded" == json.loads(train("--json")[1])["status"]


def test_a_training_is_watched_fetched_listed_and_left_as_it_ended(train, rcg, tmp_path):
    target = train("--no-wait")[1].strip()

    status, output, _ = rcg("watch", target)
    assert (0, [target, "succeeded"]) == (status, output.split("\t")[:2])
    assert f"out/{target}.tar" == rcg("get", target, "-o", "out")[1].splitlines()[1]
    assert 1 == rcg("get", target, "-o", "out")[0]
    assert 0 == rcg("get", target, "-o", "out", "--overwrite")[0]
    assert [target, "succeeded"] == rcg("cancel", target)[1].split("\t")[:2]
    (row,) = rcg("list", "--trainings", "--limit", "1")[1].splitlines()
    assert (target, "TOK") == (row.split("\t")[0], row.split("\t")[5])


def test_a_training_that_is_cancelled_or_fails_is_a_failure(train, rcg):
    target = train("--no-wait", "--trigger", "TOK [[slow=60]]")[1].strip()
    assert (0, "canceled") == (lambda done: (done[0], done[1].split("\t")[1]))(rcg("cancel", target))
    assert 1 == rcg("get", target, "-o", "out")[0]

    status, output, errors = train("--trigger", "TOK [[fail]]")

    assert (1, "") == (status, output)
    assert "generation_failed" in errors
