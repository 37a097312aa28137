"""Whatever kills the service, and whenever: what it accepted is made once and reaches its end. Counts are those of the
simulator, which outlives every process."""

import pytest
import requests

from harness.kills import Story
from harness.service_process import answer_of, served, until
from simulator import Options, running
from tests.support.callers import ADMIN, ADMIN_KEY, PICTURE, SERVER_TOKEN, USER

pytestmark = pytest.mark.slow

SEEDS = tuple(range(1, 26))
"""One draws one moment of death, from a process's first moment on: before it serves, while it takes up what was left,
and under load."""

MOST_PER_MINUTE = 600


def _checked(outcome):
    assert [] == list(outcome.wrong)
    assert [] == list(outcome.lost)
    assert [] == list(outcome.twice)
    assert outcome.generations == outcome.predictions
    assert {} == outcome.refusals
    assert outcome.peak_per_minute <= MOST_PER_MINUTE


def _alike(number):
    """Every other picture is asked for in the same words: those only counting tells apart."""
    return f"picture {number}" if number % 2 else "the same picture"


def test_twenty_five_kills_lose_nothing_and_pay_nothing_twice(tmp_path):
    options = Options(
        prediction_seconds=0.25,
        jitter=0.8,
        answer_delay=(0.0, 0.2),  # so that creations are on their way when it dies
        creations_per_minute=MOST_PER_MINUTE,
        seed=1,
    )
    with running(options) as simulator:
        story = Story(
            simulator,
            tmp_path,
            prompt=_alike,
            seed=1,
            REPLICATE_CONCURRENT_LIMIT=12,
            REPLICATE_REQUESTS_PER_MINUTE=MOST_PER_MINUTE,
        )
        outcome = story.told([story.killed(seed) for seed in SEEDS], errands=6)

    _checked(outcome)
    assert 0 < outcome.found_serving < len(SEEDS)


def test_stops_under_load_lose_nothing_and_pay_nothing_twice(tmp_path):
    options = Options(prediction_seconds=0.5, jitter=0.8, answer_delay=(0.0, 0.1), seed=1)
    with running(options) as simulator:
        settings = {"DRAIN_SECONDS": 0.2, "REPLICATE_CONCURRENT_LIMIT": 6}
        story = Story(simulator, tmp_path, prompt="picture {}".format, seed=2, **settings)
        outcome = story.told([story.stopped(seed) for seed in SEEDS[:2]], errands=8)

    _checked(outcome)
    assert 2 == outcome.found_serving


# ── A user's work waits for its owner: their token was never written down


@pytest.fixture
def settings(simulator, tmp_path):
    return {
        "REPLICATE_BASE_URL": simulator.url,
        "REPLICATE_API_TOKEN": SERVER_TOKEN,
        "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN_KEY,
        "REPLICATE_CONCURRENT_LIMIT": 1,
        "DATA_DIR": tmp_path,
    }


def _asked(service, prompt, key, who=USER, path="/generate"):
    wanted = {"model_name": "flux-dev", "prompts" if path == "/generate-batch" else "prompt": prompt}
    headers = {**who, "Prefer": "respond-async", "Idempotency-Key": key}
    answer = requests.post(service.url + path, json=wanted, headers=headers, timeout=30)
    return answer.status_code, answer.json()


def _looked_up(service, told, who=USER):
    kind = "batches" if told["id"].startswith("batch_") else "generations"
    return requests.get(f"{service.url}/{kind}/{told['id']}", headers=who, timeout=30).json()


def _ended(service, told, who=USER):
    until(lambda: "success" in _looked_up(service, told, who))
    return _looked_up(service, told, who)


def _left_by_a_killed_process(settings, simulator):
    """One that runs, one that waits, and a batch that waits, as their owner was told of them."""
    with served(**settings) as first:
        _, runs = _asked(first, "[[slow=1]] runs", "1")
        until(lambda: _looked_up(first, runs)["status"] == "running")
        _, waits = _asked(first, "waits", "2")
        _, batch = _asked(first, ["one", "other"], "3", path="/generate-batch")
        first.kill()
    assert 1 == simulator.counts().creations_accepted
    return runs, waits, batch


def test_a_users_interrupted_work_goes_on_when_its_owner_returns_and_not_before(settings, simulator):
    runs, waits, batch = _left_by_a_killed_process(settings, simulator)
    stranger = {"X-Replicate-API-Key": "r8_stranger"}
    with served(**settings) as second:
        others = {_looked_up(second, each, ADMIN)["status"] for each in (runs, waits, batch)}
        strangers = {_looked_up(second, each, stranger)["status"] for each in (runs, waits, batch)}
        answer_of(second.connect("/generate", PICTURE, **stranger))  # there is nothing in the way
        meanwhile = simulator.counts().creations_accepted

        by_key = _asked(second, "waits", "2")
        ends = [_ended(second, each) for each in (waits, runs, batch)]

    assert {"running", "queued"} == others
    assert {404} == strangers
    assert 2 == meanwhile
    assert (202, waits["id"]) == (by_key[0], by_key[1]["id"])
    assert [True, True, True] == [end["success"] for end in ends]
    assert {"[[slow=1]] runs", "waits", "one", "other", PICTURE["prompt"]} == {
        made.input["prompt"] for made in simulator.predictions()
    }
    assert 5 == simulator.counts().creations_accepted


def test_what_no_owner_returned_for_in_time_fails_as_interrupted(settings, simulator):
    left = _left_by_a_killed_process(settings, simulator)
    with served(**settings, RESUME_TTL=1) as second:
        runs, waits, batch = (_ended(second, each, ADMIN) for each in left)
        by_key = _asked(second, "waits", "2")

    assert {"interrupted"} == {
        each["error"]["code"] for each in (runs, waits, batch["results"][0], batch["results"][1])
    }
    assert left[0]["id"] == runs["id"]
    assert simulator.predictions()[0].id in runs["error"]["detail"]
    assert "interrupted" == by_key[1]["code"]
    assert 1 == simulator.counts().creations_accepted


def test_no_token_is_in_any_file_of_a_process_that_was_killed(settings, simulator, tmp_path):
    tokens = ["r8_of_a_user", "r8_of_nobody", SERVER_TOKEN, ADMIN_KEY]
    user, nobody = ({"X-Replicate-API-Key": token} for token in tokens[:2])
    simulator.account("r8_of_nobody", reject=True)
    with served(**settings) as service:
        answer_of(service.connect("/generate", PICTURE, **user))
        answer_of(service.connect("/generate", PICTURE, **nobody))
        for who in (user, ADMIN):
            _asked(service, "[[slow=30]]", "one", who)
            _asked(service, ["waits", "waits, too"], "other", who, path="/generate-batch")
        until(lambda: simulator.counts().in_flight == 1)
        service.kill()

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    found = {(path.name, token) for path in files for token in tokens if token.encode() in path.read_bytes()}
    assert {"ledger.db", "ledger.db-wal"} <= {path.name for path in files}
    assert set() == found
