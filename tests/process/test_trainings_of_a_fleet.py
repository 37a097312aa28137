"""Trainings of three processes on one PostgreSQL, and of one on SQLite: stops, kills, cancels, lost answers, and how
many run at once."""

from signal import SIGTERM

import pytest
import requests

from harness.fleet import ADMIN
from harness.service_process import until
from harness.trainings import get_training, get_weights, send_training
from tests.support.callers import USER
from tests.support.fleets import fleet_on

pytestmark = pytest.mark.slow

ENGINES = ("sqlite", "postgresql")


@pytest.fixture
def start(simulator, tmp_path):
    """Starts fleets that share what they keep."""

    def started(engine, **settings):
        shared = {
            "REPLICATE_BASE_URL": simulator.url,
            "DATA_DIR": tmp_path,
            "PROCESS_TTL": 2,
            "DRAIN_SECONDS": 300,
        }
        return fleet_on(engine, tmp_path, **shared, **settings)

    return started


def _begin(url, word, who=ADMIN):
    answer = send_training(url, who, word)
    assert 202 == answer.status_code, answer.text
    return answer.json()["id"]


def _get(url, target):
    return get_training(url, ADMIN, target)


def _ended(url, target):
    until(lambda: "success" in _get(url, target))
    return _get(url, target)


def _words(simulator):
    return [each.input["trigger_word"] for each in simulator.trainings()]


def _uploads(simulator):
    return {each.id for each in simulator.uploads()}


def _check_all_made_once(simulator, url, bodies, *, others=0):
    """Each of these trainings was made once, and `others` run still."""
    made = {each.id: each.output["version"] for each in simulator.trainings() if each.output}
    assert len(simulator.trainings()) == len(made) + others
    assert len(made) == len(bodies)
    assert made == {body["training_id"]: body["model"] for body in bodies}
    ended = {each.url.rpartition("/")[2] for each in simulator.trainings() if each.output}
    assert not ended & _uploads(simulator)
    assert all(b"safetensors" in get_weights(url, ADMIN, body) for body in bodies)


def test_a_turn_that_a_killed_process_had_claimed_is_given_back_and_its_training_is_sent_once(
    start, simulator
):
    simulator.inject(on="file", delay=600)
    with start("postgresql", TRAININGS_AT_ONCE=1) as fleet:
        first, second, _ = fleet.urls()
        targets = [_begin(first, "one")]
        until(lambda: _get(second, targets[0])["status"] == "submitting")
        targets.append(_begin(second, "two"))
        fleet.members[0].kill()
        bodies = [_ended(second, each) for each in targets]
        _check_all_made_once(simulator, second, bodies)

    counts = simulator.counts()
    assert (1, 2) == (counts.trainings.in_flight_peak, counts.requests["train"])
    assert 1 == len(_uploads(simulator))  # no process knows its address, and Replicate deletes it after a day


def test_a_users_training_has_no_turn_until_its_owner_comes_back_to_another_process(start, simulator):
    with start("postgresql", TRAININGS_AT_ONCE=1) as fleet:
        first, second, third = fleet.urls()
        theirs = _begin(first, "[[hang]] theirs", USER)
        until(lambda: get_training(second, USER, theirs)["status"] == "running")
        fleet.members[0].kill()
        until(lambda: "waiting_for_owner_since" in _get(second, theirs))
        _check_all_made_once(simulator, second, [_ended(second, _begin(second, "ours"))], others=1)
        until(lambda: get_training(third, USER, theirs)["status"] == "running")
        simulator.finish()
        until(lambda: get_training(third, USER, theirs)["status"] == "succeeded")

    assert ["[[hang]] theirs", "ours"] == _words(simulator)
    assert set() == _uploads(simulator)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stop_does_not_wait_for_a_training_and_another_process_goes_on_with_it(start, simulator, engine):
    with start(engine) as fleet:
        stopped = fleet.members[0]
        target = _begin(stopped.running.url, "[[hang]]")
        until(lambda: _get(stopped.running.url, target)["status"] == "running")
        stopped.running.signal(SIGTERM)
        assert 0 == stopped.running.ended()  # it would not in time if it waited as long as it may drain
        assert ["processing"] == [each.status for each in simulator.trainings()]
        stopped.service = None
        stopped.launch()
        until(stopped.is_ready)
        url = fleet.urls()[-1]
        until(lambda: _get(url, target)["status"] == "running")
        simulator.finish()
        body = _ended(url, target)
        _check_all_made_once(simulator, url, [body])

    assert "train_cancel" not in simulator.counts().requests


def test_at_most_so_many_run_in_all_processes_and_the_next_begins_in_another_one(start, simulator):
    with start("postgresql", TRAININGS_AT_ONCE=2) as fleet:
        first, second, third = fleet.urls()
        targets = [_begin(first, "[[hang]] 1"), _begin(first, "[[hang]] 2")]
        until(lambda: len(simulator.trainings()) == 2)
        targets += [_begin(second, "[[hang]] 3"), _begin(third, "[[hang]] 4")]
        until(lambda: [_get(first, each)["status"] for each in targets].count("queued") == 2)
        simulator.finish()
        until(lambda: len(simulator.trainings()) == 4)
        simulator.finish()
        bodies = [_ended(third, each) for each in targets]
        _check_all_made_once(simulator, third, bodies)

    assert 2 == simulator.counts().trainings.in_flight_peak


def test_a_training_is_cancelled_at_a_process_that_does_not_run_it(start, simulator):
    with start("postgresql") as fleet:
        first, second, _ = fleet.urls()
        target = _begin(first, "[[hang]]")
        until(lambda: _get(second, target)["status"] == "running")
        answer = requests.delete(f"{second}/trainings/{target}", headers=ADMIN, timeout=30)
        assert (200, "canceled") == (answer.status_code, answer.json()["status"])
        assert "canceled" == _get(first, target)["status"]

    assert ["canceled"] == [each.status for each in simulator.trainings()]
    assert [] == simulator.uploads()


def test_a_queued_training_is_cancelled_at_a_process_that_does_not_have_it(start, simulator):
    with start("postgresql", TRAININGS_AT_ONCE=1) as fleet:
        first, second, third = fleet.urls()
        runs = _begin(first, "[[hang]]")
        until(simulator.trainings)
        queued = _begin(second, "never")
        answer = requests.delete(f"{third}/trainings/{queued}", headers=ADMIN, timeout=30)
        assert (200, "canceled") == (answer.status_code, answer.json()["status"])
        simulator.finish()
        _ended(third, runs)

    assert ["[[hang]]"] == _words(simulator)


def test_twenty_lost_answers_in_three_processes_are_twenty_trainings(start, simulator):
    words = [f"TOK{number}" for number in range(20)]
    simulator.inject(on="train", times=20, reset="after")
    with start("postgresql", TRAININGS_AT_ONCE=20) as fleet:
        urls = fleet.urls()
        targets = [_begin(urls[number % 3], word) for number, word in enumerate(words)]
        bodies = [_ended(urls[0], each) for each in targets]
        _check_all_made_once(simulator, urls[0], bodies)

    assert sorted(words) == sorted(_words(simulator))
    assert {1} == {*simulator.trainings_by_url().values()}
