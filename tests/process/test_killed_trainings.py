"""A process is killed at one exact moment of a training. The simulator's record outlives it: one training, one version,
and no upload that is left."""

import sqlite3
from contextlib import closing

import pytest

from harness.fleet import ADMIN
from harness.service_process import running_service, until
from harness.trainings import get_training, get_weights, send_training
from tests.support.callers import ADMIN_KEY, SERVER_TOKEN, USER

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(simulator, tmp_path):
    return {
        "REPLICATE_BASE_URL": simulator.url,
        "REPLICATE_API_TOKEN": SERVER_TOKEN,
        "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN_KEY,
        "DATA_DIR": tmp_path,
        "DRAIN_SECONDS": 300,
    }


def _begin(service, word="TOK", who=ADMIN, **fields):
    answer = send_training(service.url, who, word, **fields)
    assert 202 == answer.status_code, answer.text
    return answer.json()["id"]


def _ended(service, target, who=ADMIN):
    until(lambda: "success" in get_training(service.url, who, target))
    return get_training(service.url, who, target)


def _requests(simulator, kind):
    return simulator.counts().requests.get(kind, 0)


def _check_made_once(simulator, service, body):
    """One training there, which is this one; its weights are kept here."""
    [made] = simulator.trainings()
    assert ("succeeded", made.id, made.output["version"]) == (
        body["status"], body["training_id"], body["model"],
    )  # fmt: skip
    assert body["cost_usd"] == pytest.approx(made.billed_usd, abs=1e-5)
    assert b"safetensors" in get_weights(service.url, ADMIN, body)


def test_a_training_that_was_being_uploaded_is_sent_once(settings, simulator):
    simulator.inject(on="file", delay=600)
    with running_service(**settings) as first:
        target = _begin(first)
        until(lambda: _requests(simulator, "file") == 1)
        first.kill()
    assert [] == simulator.trainings()
    with running_service(**settings) as second:
        _check_made_once(simulator, second, _ended(second, target))
    assert 1 == _requests(simulator, "train")


@pytest.mark.parametrize("fault", [{"delay": 600}, {"hang": 600}])
def test_a_training_without_an_answer_yet_is_adopted(settings, simulator, fault):
    simulator.inject(on="train", **fault)
    with running_service(**settings) as first:
        target = _begin(first, "[[slow=1]]")
        until(simulator.trainings)
        first.kill()
    with running_service(**settings) as second:
        _check_made_once(simulator, second, _ended(second, target))
    assert 1 == _requests(simulator, "train")
    assert [] == simulator.uploads()


def test_a_training_that_runs_is_watched_to_its_end_and_its_progress_does_not_fall(settings, simulator):
    def progress(service):
        return get_training(service.url, ADMIN, target).get("progress")

    with running_service(**settings) as first:
        target = _begin(first, "[[slow=30]]")
        until(lambda: progress(first))
        before = progress(first)
        first.kill()
    with running_service(**settings) as second:
        until(lambda: progress(second))
        assert before <= progress(second)
        assert get_training(second.url, ADMIN, target)["logs"]
        simulator.finish()
        _check_made_once(simulator, second, _ended(second, target))
    assert [] == simulator.uploads()


@pytest.mark.parametrize("fault", [{"hang": 600}, {"slow": 600}])
def test_weights_that_were_being_fetched_are_fetched_again(settings, simulator, fault):
    simulator.inject(on="weights", **fault)
    with running_service(**settings) as first:
        target = _begin(first)
        until(lambda: _requests(simulator, "weights") == 1)
        first.kill()
    with running_service(**settings) as second:
        _check_made_once(simulator, second, _ended(second, target))
    assert (1, 2) == (_requests(simulator, "train"), _requests(simulator, "weights"))
    assert [] == simulator.uploads()


def test_an_upload_that_was_being_deleted_is_deleted_again(settings, simulator):
    simulator.inject(on="file_delete", status=429, headers={"Retry-After": "600"})
    with running_service(**settings) as first:
        target = _begin(first)
        until(lambda: _requests(simulator, "file_delete") == 1)
        first.kill()
    assert 1 == len(simulator.uploads())
    with running_service(**settings) as second:
        _check_made_once(simulator, second, _ended(second, target))
    assert [] == simulator.uploads()


def test_a_users_training_waits_for_its_owner_and_is_then_cancelled_at_its_deadline(
    settings, simulator, tmp_path
):
    with running_service(**settings) as first:
        target = _begin(first, "[[hang]]", USER, timeout=60)
        until(lambda: get_training(first.url, USER, target)["status"] == "running")
        first.kill()
    _make_older(tmp_path, 100)
    before = simulator.counts().requests
    with running_service(**settings) as second:
        suspended = get_training(second.url, ADMIN, target)
        assert "waiting_for_owner_since" in suspended
        assert "running" == suspended["status"]
        assert before == simulator.counts().requests
        body = _ended(second, target, USER)
    assert ("failed", "generation_timeout") == (body["status"], body["error"]["code"])
    assert ["canceled"] == [each.status for each in simulator.trainings()]
    assert [] == simulator.uploads()


def _make_older(data, seconds):
    """Let the creations in the ledger of a process that was killed be so many seconds older."""
    with closing(sqlite3.connect(data / "ledger.db")) as ledger, ledger:
        ledger.execute(
            "UPDATE attempts SET submitted_at = submitted_at - ?, answered_at = answered_at - ?,"
            " created_at = created_at - ?",
            (seconds,) * 3,
        )
