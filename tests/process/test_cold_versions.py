"""Predictions that wait for their version to boot hold at most half of the slots, and a warm model goes on."""

from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, cycle

import pytest
import requests

from harness.fleet import ADMIN, running_fleet
from harness.ledger_file import LedgerFile
from harness.service_process import until
from simulator import Options, running

pytestmark = pytest.mark.slow

SLOTS = 8
HALF = 4
COLD, WARM = "acme/watercolor", "black-forest-labs/flux-dev"
USERS = [{"X-Replicate-API-Key": f"r8_user_{number}"} for number in range(2)]
OWNER, NAME = COLD.split("/")


class Callers:
    """They call the processes of a fleet in turn."""

    def __init__(self, fleet):
        self._urls = cycle(member.running.url for member in fleet.members)

    def post(self, headers, model, prompt, **more):
        body = {"model_name": model, "prompt": prompt}
        return requests.post(
            f"{next(self._urls)}/generate", json=body, headers={**headers, **more}, timeout=60
        )

    def accepted(self, headers, number):
        """The id of a generation of the cold version, for which a boot of its own is added to that of the version."""
        response = self.post(headers, COLD, f"cold {number} [[boot=0.3]]", Prefer="respond-async")
        assert 202 == response.status_code, response.text
        return response.json()["id"]

    def has_succeeded(self, headers, generation_id):
        body = requests.get(
            f"{next(self._urls)}/generations/{generation_id}", headers=headers, timeout=60
        ).json()
        assert body.get("success", True), body
        return "success" in body

    def succeed(self, number):
        """Let the warm model make so many pictures, one after the other. Returns the statuses."""
        return {self.post(ADMIN, WARM, f"warm {each}").status_code for each in range(number)}


def most_booting(made):
    """The most predictions of the cold version that were created and had neither started nor ended, at any moment."""
    changes = []
    for each in made:
        if each.model == COLD:
            changes += [(each.created_at, 1), (each.started_at or each.completed_at, -1)]
    return max(accumulate(change for _, change in sorted(changes)))


def created(simulator, model):
    return sum(each.model == model for each in simulator.predictions())


def run(ledger, size, **settings):
    with running(Options(prediction_seconds=0.3, jitter=0.5, seed=1)) as simulator:
        # A boot that the test ends.
        simulator.publish({"owner": OWNER, "name": NAME, "simulator": {"boot_seconds": 3600}})
        settings |= {"REPLICATE_BASE_URL": simulator.url, "REPLICATE_CONCURRENT_LIMIT": SLOTS}
        with running_fleet(size, ledger, **settings) as fleet, ThreadPoolExecutor(1) as thread:
            callers = Callers(fleet)
            cold = [(user, callers.accepted(user, number)) for number in range(12) for user in USERS]
            until(lambda: created(simulator, COLD) >= HALF)
            assert {200} == callers.succeed(10)
            assert HALF == created(simulator, COLD)

            simulator.publish({"owner": OWNER, "name": NAME, "simulator": {"boot_seconds": 0.5}})
            simulator.finish()
            warm = thread.submit(callers.succeed, 20)
            for user, each in cold:
                until(lambda user=user, each=each: callers.has_succeeded(user, each))
            assert {200} == warm.result()
        made, peak = simulator.predictions(), simulator.counts().in_flight_peak

    assert len(cold) == sum(each.model == COLD for each in made)
    assert HALF == most_booting(made)
    assert peak <= SLOTS


def test_a_cold_version_holds_half_of_the_slots_of_one_process_and_a_warm_model_goes_on(tmp_path):
    run(LedgerFile(tmp_path), 1, DATA_DIR=tmp_path)


def test_a_cold_version_holds_half_of_the_slots_of_three_processes_and_a_warm_model_goes_on(own_server):
    run(own_server, 3)
