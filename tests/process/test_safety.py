"""Checks of prompts by real processes: one on SQLite, and three on PostgreSQL. One is killed while it waits for
verdicts, and its work is checked before another sends it."""

import pytest
import requests

from harness.fleet import ADMIN
from harness.safety_service import by_words, judging
from harness.service_process import until
from simulator import Options, running
from tests.support.fleets import fleet_on

pytestmark = pytest.mark.slow

PROMPTS = ["a cat", "a sword", "a dog", "a bird", "two swords"]


@pytest.fixture
def judge():
    with judging(by_words({"sword": "weapons"})) as service:
        yield service


@pytest.fixture
def simulator():
    with running(Options(prediction_seconds=0.05, jitter=0.0)) as started:
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def fleet(request, tmp_path, judge, simulator):
    urls = {"REPLICATE_BASE_URL": simulator.url, "SAFETY_URL": judge.url}
    with fleet_on(request.param, tmp_path, DATA_DIR=tmp_path, SAFETY_TIMEOUT=60, **urls) as started:
        yield started


def test_work_of_a_killed_process_is_checked_before_another_sends_it(fleet, judge, simulator):
    first, last = fleet.members[0], fleet.members[-1]
    judge.open.clear()
    made = requests.post(
        f"{first.running.url}/generate-batch",
        json={"model_name": "flux-dev", "prompts": PROMPTS},
        headers={**ADMIN, "Prefer": "respond-async"},
        timeout=60,
    )
    assert 202 == made.status_code, made.text
    until(lambda: len(judge.prompts) == len(PROMPTS))

    first.kill()
    if first is last:
        first.launch()
    until(lambda: len(judge.prompts) == 2 * len(PROMPTS))
    assert [] == simulator.predictions()
    judge.open.set()

    def body():
        return requests.get(
            f"{last.running.url}/batches/{made.json()['id']}", headers=ADMIN, timeout=60
        ).json()

    until(lambda: body()["status"] == "completed")
    results = body()["results"]
    assert [True, False, True, True, False] == [each["success"] for each in results]
    assert {"weapons"} == {each["error"]["category"] for each in results if not each["success"]}
    assert 3 == len(simulator.predictions())
