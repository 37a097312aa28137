"""No kill and no stop loses accepted work or pays for it twice. The counts are the simulator's, which outlives them."""

import pytest
import requests

from harness.kills import KillScenario
from harness.service_process import read_response, running_service, until
from simulator import Options, running
from tests.support.callers import ADMIN, ADMIN_KEY, PICTURE, SERVER_TOKEN, USER

pytestmark = pytest.mark.slow

SEEDS = tuple(range(1, 13))
"""Each seed draws one moment for a kill: before the process serves, during recovery, or under load."""

MOST_PER_MINUTE = 600


def _check(report):
    assert [] == list(report.errors)
    assert [] == list(report.lost)
    assert [] == list(report.mismatched)
    assert report.generations == report.predictions
    assert {} == report.refusals
    assert report.peak_per_minute <= MOST_PER_MINUTE


def _prompt(number):
    """Every other picture has the same prompt, so that only their number shows a missing one."""
    return f"picture {number}" if number % 2 else "the same picture"


@pytest.mark.long
@pytest.mark.usefixtures("programs")  # some kills come before it serves
def test_twelve_kills_lose_nothing_and_pay_nothing_twice(tmp_path):
    """`make bench` does the same with 200 kills."""
    options = Options(
        prediction_seconds=0.25,
        jitter=0.8,
        answer_delay=(0.0, 0.2),  # so that creations are unanswered at a kill
        creations_per_minute=MOST_PER_MINUTE,
        seed=1,
    )
    with running(options) as simulator:
        scenario = KillScenario(
            simulator,
            tmp_path,
            prompt=_prompt,
            seed=1,
            REPLICATE_CONCURRENT_LIMIT=12,
            REPLICATE_REQUESTS_PER_MINUTE=MOST_PER_MINUTE,
        )
        report = scenario.run([scenario.kill_at_random(seed) for seed in SEEDS], requests_each=6)

    _check(report)
    assert 0 < report.ended_while_serving < len(SEEDS)


def test_stops_under_load_lose_nothing_and_pay_nothing_twice(tmp_path):
    options = Options(prediction_seconds=0.5, jitter=0.8, answer_delay=(0.0, 0.1), seed=1)
    with running(options) as simulator:
        settings = {"DRAIN_SECONDS": 0.2, "REPLICATE_CONCURRENT_LIMIT": 6}
        scenario = KillScenario(simulator, tmp_path, prompt="picture {}".format, seed=2, **settings)
        report = scenario.run([scenario.stop_at_random(seed) for seed in SEEDS[:2]], requests_each=8)

    _check(report)
    assert 2 == report.ended_while_serving


# ── A user's work waits for its owner, because the token is never stored


@pytest.fixture
def settings(simulator, tmp_path):
    return {
        "REPLICATE_BASE_URL": simulator.url,
        "REPLICATE_API_TOKEN": SERVER_TOKEN,
        "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN_KEY,
        "REPLICATE_CONCURRENT_LIMIT": 1,
        "DATA_DIR": tmp_path,
    }


def _submit(service, prompt, key, who=USER, path="/generate"):
    body = {"model_name": "flux-dev", "prompts" if path == "/generate-batch" else "prompt": prompt}
    headers = {**who, "Prefer": "respond-async", "Idempotency-Key": key}
    answer = requests.post(service.url + path, json=body, headers=headers, timeout=30)
    return answer.status_code, answer.json()


def _get(service, submitted, who=USER):
    kind = "batches" if submitted["id"].startswith("batch_") else "generations"
    return requests.get(f"{service.url}/{kind}/{submitted['id']}", headers=who, timeout=30).json()


def _wait_for_end(service, submitted, who=USER):
    until(lambda: "success" in _get(service, submitted, who))
    return _get(service, submitted, who)


def _unfinished_after_kill(settings, simulator):
    """The accepted responses of a running generation, a queued generation and a queued batch."""
    with running_service(**settings) as first:
        _, running = _submit(first, "[[hang]] runs", "1")
        until(lambda: _get(first, running)["status"] == "running")
        _, queued = _submit(first, "waits", "2")
        _, batch = _submit(first, ["one", "other"], "3", path="/generate-batch")
        first.kill()
    assert 1 == simulator.counts().creations_accepted
    return running, queued, batch


def test_a_users_interrupted_work_resumes_only_when_its_owner_returns(settings, simulator):
    running, queued, batch = _unfinished_after_kill(settings, simulator)
    stranger = {"X-Replicate-API-Key": "r8_stranger"}
    with running_service(**settings) as second:
        for_admin = {_get(second, each, ADMIN)["status"] for each in (running, queued, batch)}
        for_stranger = {_get(second, each, stranger)["status"] for each in (running, queued, batch)}
        read_response(second.connect("/generate", PICTURE, **stranger))  # nothing blocks it
        meanwhile = simulator.counts().creations_accepted

        _, by_key = _submit(second, "waits", "2")
        simulator.finish()
        ends = [_wait_for_end(second, each) for each in (queued, running, batch)]

    assert {"running", "queued"} == for_admin
    assert {404} == for_stranger
    assert 2 == meanwhile
    assert queued["id"] == by_key["id"]
    assert [True, True, True] == [end["success"] for end in ends]
    assert {"[[hang]] runs", "waits", "one", "other", PICTURE["prompt"]} == {
        made.input["prompt"] for made in simulator.predictions()
    }
    assert 5 == simulator.counts().creations_accepted


def test_work_whose_owner_does_not_return_in_time_fails_as_interrupted(settings, simulator):
    left = _unfinished_after_kill(settings, simulator)
    with running_service(**settings, RESUME_TTL=1) as second:
        running, queued, batch = (_wait_for_end(second, each, ADMIN) for each in left)
        by_key = _submit(second, "waits", "2")

    assert {"interrupted"} == {
        each["error"]["code"] for each in (running, queued, batch["results"][0], batch["results"][1])
    }
    assert left[0]["id"] == running["id"]
    assert simulator.predictions()[0].id in running["error"]["detail"]
    assert "interrupted" == by_key[1]["code"]
    assert 1 == simulator.counts().creations_accepted


def test_a_killed_process_leaves_no_token_in_any_file(settings, simulator, tmp_path):
    tokens = ["r8_of_a_user", "r8_rejected", SERVER_TOKEN, ADMIN_KEY]
    user, rejected = ({"X-Replicate-API-Key": token} for token in tokens[:2])
    simulator.account("r8_rejected", reject=True)
    with running_service(**settings) as service:
        read_response(service.connect("/generate", PICTURE, **user))
        read_response(service.connect("/generate", PICTURE, **rejected))
        for who in (user, ADMIN):
            _submit(service, "[[hang]]", "one", who)
            _submit(service, ["waits", "waits, too"], "other", who, path="/generate-batch")
        until(lambda: simulator.counts().in_flight == 1)
        service.kill()

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    found = {(path.name, token) for path in files for token in tokens if token.encode() in path.read_bytes()}
    assert {"ledger.db", "ledger.db-wal"} <= {path.name for path in files}
    assert set() == found
