"""Kills with any model among the work: nothing is lost but secrets that were never sent, nothing is made twice, and no
secret is in any file, row, log, response or webhook."""

import random
import time
from urllib.parse import urlsplit

import pytest

from harness.any_model import MARKED, AnyModel, audit_models, found_in, webhook_receiver
from harness.fleet import ADMIN, running_fleet
from harness.fleet_audit import audit
from harness.fleet_load import FleetLoad
from harness.ledger_file import LedgerFile
from simulator import Options, running

pytestmark = pytest.mark.slow

KILLS = 5
"""`make bench-scale` does the same with 100 kills over three processes."""

A_MINUTE = 600
SLOTS = 3
OPTIONS = Options(
    prediction_seconds=0.5,
    boot_seconds=0.2,
    jitter=0.8,
    answer_delay=(0.0, 0.2),
    creations_per_minute=A_MINUTE,
    seed=1,
)
USERS = [{"X-Replicate-API-Key": f"r8_user_{number}"} for number in range(2)]
CALLERS = [ADMIN, *USERS] * 2
"""Two callers of each account. A search for a creation that a kill has lost takes 90 s, unless others of its account
follow: then the account's list must show them, too."""

GOES_ON = 3.0
"""Seconds from the last start until the callers stop, so that creations also follow those of the last kill."""


def kill_one(fleet, data):
    """Kill the only process again and again. Returns the files that had a secret after a kill."""
    chance, [member] = random.Random(1), fleet.members
    shown = []
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.5, 2.5))
        member.kill()
        shown += found_in(data)
        fleet.start()
    return shown


def run(ledger, size, tmp_path, kill):
    data = tmp_path / "data"
    with running(OPTIONS) as simulator, webhook_receiver() as (address, received):
        settings = {
            "REPLICATE_BASE_URL": simulator.url,
            "REPLICATE_CONCURRENT_LIMIT": SLOTS,
            "REPLICATE_REQUESTS_PER_MINUTE": A_MINUTE,
            "WEBHOOK_HOSTS": urlsplit(address).netloc,
            "DATA_DIR": data,
            "FILES_TTL": 3600,
            "LOG_LEVEL": "debug",
            "PROCESS_TTL": 2,
        }
        with running_fleet(size, ledger, **settings) as fleet:
            load = FleetLoad(fleet, CALLERS, request=AnyModel(address), pause=0.5, hidden=MARKED)
            load.start()
            shown = kill(fleet, data) or []
            fleet.start()
            time.sleep(GOES_ON)
            load.finish(timeout=120)
            found = audit(ledger, simulator, load)
            models = audit_models(ledger, simulator, load, data, fleet.logs, webhooks=received)

    assert [] == [*found.lost, *found.twice, *found.errors, *models.mismatched]
    assert [] == [*shown, *models.shown]
    assert found.generations == found.predictions + found.secrets_lost
    assert 0 < models.with_secrets + found.secrets_lost
    assert received
    assert found.throttled == 0
    assert found.densest <= A_MINUTE
    if size > 1:  # after a restart on SQLite, a user's prediction has no slot before its owner returns
        assert found.in_flight_peak <= SLOTS


@pytest.mark.long
def test_kills_of_one_process_with_any_model_keep_all_promises(tmp_path):
    run(LedgerFile(tmp_path / "data"), 1, tmp_path, kill_one)


def test_kills_of_three_processes_with_any_model_keep_all_promises(own_server, tmp_path):
    run(own_server, 3, tmp_path, lambda fleet, _: fleet.kill_at_random(KILLS, interval=(0.5, 2.0)))
