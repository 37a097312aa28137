"""The service as a process with its ledger in PostgreSQL: kills, a frozen process, and restarts of the server."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import requests

from harness.kills import KillScenario
from harness.postgres import server
from harness.service_process import running_service, until
from simulator import Options, running
from tests.support.callers import ADMIN, ADMIN_KEY, PICTURE, SERVER_TOKEN

pytestmark = pytest.mark.slow


def settings(simulator, tmp_path, url) -> dict[str, object]:
    return {
        "REPLICATE_BASE_URL": simulator.url,
        "REPLICATE_API_TOKEN": SERVER_TOKEN,
        "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN_KEY,
        "DATA_DIR": tmp_path,
        "DATABASE_URL": url,
    }


@pytest.mark.long
@pytest.mark.parametrize("version", [16, 18])
def test_kills_lose_nothing_and_pay_nothing_twice(tmp_path, version):
    """`make bench-scale` does 200 kills over three processes."""
    options = Options(prediction_seconds=0.25, jitter=0.8, answer_delay=(0.0, 0.2), seed=1)
    with running(options) as simulator, server(version).schema() as schema:
        scenario = KillScenario(
            simulator,
            tmp_path,
            prompt="picture {}".format,
            seed=1,
            REPLICATE_CONCURRENT_LIMIT=12,
            DATABASE_URL=server(version).url(schema=schema),
        )
        report = scenario.run([scenario.kill_at_random(seed) for seed in range(1, 4)], requests_each=6)

    assert [] == [*report.errors, *report.lost, *report.mismatched]
    assert report.generations == report.predictions


def generate(service, **fields):
    return requests.post(
        f"{service.url}/generate",
        json={**PICTURE, **fields},
        headers={**ADMIN, "Prefer": "respond-async"},
        timeout=30,
    )


def is_healthy(service) -> bool:
    return requests.get(f"{service.url}/health", timeout=30).ok


def test_work_runs_on_while_the_server_restarts_and_is_recorded_afterwards(simulator, tmp_path, own_server):
    with running_service(**settings(simulator, tmp_path, own_server.url())) as service:
        accepted = generate(service, prompt="[[hang]] a").json()
        until(lambda: simulator.counts().in_flight == 1)
        own_server.stop()
        until(lambda: not is_healthy(service))
        refused = generate(service, prompt="b")
        simulator.finish()
        own_server.start()
        until(lambda: is_healthy(service))

        def state():
            return requests.get(
                f"{service.url}/generations/{accepted['id']}", headers=ADMIN, timeout=30
            ).json()["status"]

        until(lambda: state() == "succeeded")
    assert "The ledger cannot be" in refused.json()["detail"]
    assert 1 == simulator.counts().creations_accepted


def test_a_frozen_process_that_lost_the_ledger_sends_nothing_and_starts_anew(simulator, tmp_path):
    with server().schema() as schema:
        facts = settings(simulator, tmp_path, server().url(schema=schema))
        with running_service(**facts) as first:
            until(lambda: is_healthy(first))
            (worker,) = subprocess.check_output(["pgrep", "-P", str(first.process.pid)], text=True).split()
            os.kill(int(worker), signal.SIGSTOP)
            with running_service(**facts) as second:
                until(lambda: is_healthy(second), timeout=60)
                assert 202 == generate(second, prompt="[[hang]] a").status_code
                dead = f"SELECT 1 FROM {schema}.processes WHERE dead_at IS NOT NULL"
                until(lambda: server().execute(dead), timeout=60)
                os.kill(int(worker), signal.SIGCONT)
                until(lambda: not Path(f"/proc/{worker}").exists(), timeout=60)
                simulator.finish()
            until(lambda: is_healthy(first), timeout=60)
            assert generate(first, prompt="b").ok
            until(lambda: simulator.counts().creations_accepted == 2)
