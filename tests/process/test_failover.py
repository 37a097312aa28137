"""Two processes on a PostgreSQL whose standby takes over without the last commits."""

import signal
from itertools import count

import pytest
import requests

from harness.fleet import ADMIN, running_fleet
from harness.postgres import Server
from harness.service_process import until
from simulator import Options, running

pytestmark = pytest.mark.slow

SLOTS = 4
TTL = 6
"""Both processes must come back within twice this time, also on a slow machine."""


@pytest.fixture
def servers():
    """A primary and its asynchronous standby."""
    primary = Server()
    standby = Server(primary=primary)
    yield primary, standby
    standby.close()
    primary.close()


class Callers:
    """Requests with a key each, at a process or at all by turns."""

    def __init__(self, fleet):
        self._fleet = fleet
        self._numbers = count()
        self._prompts = {}
        self.ids = {}
        """The generations by their keys."""

    def request(self, prompt, *, key, at):
        return requests.post(
            f"{self._fleet.members[at].running.url}/generate",
            json={"model_name": "flux-dev", "prompt": prompt},
            headers={**ADMIN, "Idempotency-Key": key, "Prefer": "respond-async"},
            timeout=30,
        )

    def accepted(self, prompt, number):
        """Request so many generations of a prompt. Returns their ids."""
        found = []
        for turn in range(number):
            key = f"key-{next(self._numbers)}"
            answer = self.request(prompt, key=key, at=turn % 2)
            assert answer.ok
            self.ids[key] = answer.json()["id"]
            self._prompts[key] = prompt
            found.append(self.ids[key])
        return found

    def again(self, key, *, at):
        """The id in the answer to a repeated request, or None after an error."""
        answer = self.request(self._prompts[key], key=key, at=at)
        return answer.json()["id"] if answer.ok else None

    def finds(self, generation_id, *, at):
        """Whether a process finds this work. If not, it must not say that there is none."""
        url = f"{self._fleet.members[at].running.url}/generations/{generation_id}"
        status = requests.get(url, headers=ADMIN, timeout=30).status_code
        assert status in {200, 500}
        return status == 200

    def refusal(self, *, at):
        """The error of a new request."""
        return self.request("new", key=f"new-{next(self._numbers)}", at=at).json().get("detail", "")


def test_what_a_failover_has_lost_is_written_again_and_paid_once(servers):
    primary, standby = servers
    both = f"{primary.directory},{standby.directory}"
    url = f"postgresql://postgres@/postgres?host={both}&target_session_attrs=read-write"
    settings = {"REPLICATE_CONCURRENT_LIMIT": SLOTS, "PROCESS_TTL": TTL}
    with (
        running(Options(prediction_seconds=0.3, jitter=0.0, seed=1)) as simulator,
        running_fleet(
            2, primary, database=lambda _: url, REPLICATE_BASE_URL=simulator.url, **settings
        ) as fleet,
    ):
        callers = Callers(fleet)
        kept = callers.accepted("kept", 2)
        until(lambda: {"succeeded"} == states(standby, kept))
        standby.fall_behind()
        ended = callers.accepted("ended", 4)
        until(lambda: {"succeeded"} == states(primary, ended))
        held = callers.accepted("[[hang]] held", SLOTS)
        until(lambda: {"running"} == states(primary, held))
        waiting = callers.accepted("waiting", 3)

        primary.stop(signal.SIGKILL)
        assert {None} == states(standby, [*ended, *held, *waiting])
        standby.promote()

        for at in (0, 1):
            until(lambda at=at: "has failed over to another server" in callers.refusal(at=at))
        until(lambda: all(callers.finds(each, at=at) for each in [*ended, *waiting] for at in (0, 1)))
        for key, generation_id in callers.ids.items():
            for at in (0, 1):
                until(lambda key=key, at=at: callers.again(key, at=at))
                assert generation_id == callers.again(key, at=at)
        assert {"succeeded"} == states(standby, ended)
        assert {"running"} == states(standby, held)
        assert {"queued"} == states(standby, waiting)
        end_all_at(simulator)
        until(lambda: {"failed"} == states(standby, held))
        until(lambda: not any(callers.refusal(at=at) for at in (0, 1)))

        counts = simulator.counts()
        made = len([*kept, *ended, *held])  # the others wait for a minute
        assert made == counts.creations_accepted == counts.requests["create"]
        assert SLOTS == counts.in_flight_peak
        rows = standby.execute("SELECT count(*), count(DISTINCT prediction_id) FROM attempts")
        assert [(made, made)] == rows


def states(server, ids):
    """The states of these generations in the ledger, None for those that it does not have."""
    found = dict(server.execute("SELECT id, state FROM generations"))
    return {found.get(each) for each in ids}


def end_all_at(simulator):
    """End all predictions as an operator does on Replicate's site."""
    for each in simulator.predictions():
        address = f"{simulator.url}/v1/predictions/{each.id}/cancel"
        requests.post(address, headers={"Authorization": "Bearer r8_server"}, timeout=30).raise_for_status()
