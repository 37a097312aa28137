"""Three processes on one PostgreSQL under load: kills lose nothing, pay nothing twice, and stay within the limits."""

import pytest

from harness.fleet import ADMIN, running_fleet
from harness.fleet_audit import audit
from harness.fleet_load import FleetLoad
from simulator import Options, running

pytestmark = pytest.mark.slow

KILLS = 12
A_MINUTE = 600
SLOTS = 12


def test_kills_over_three_processes_lose_nothing_and_pay_nothing_twice(own_server):
    options = Options(
        prediction_seconds=0.5, jitter=0.8, answer_delay=(0.0, 0.2), creations_per_minute=A_MINUTE, seed=1
    )
    settings = {
        "REPLICATE_CONCURRENT_LIMIT": SLOTS,
        "REPLICATE_REQUESTS_PER_MINUTE": A_MINUTE,
        "PROCESS_TTL": 2,
    }
    callers = [*([ADMIN] * 4), *({"X-Replicate-API-Key": f"r8_user_{number}"} for number in range(2))]
    with (
        running(options) as simulator,
        running_fleet(3, own_server, REPLICATE_BASE_URL=simulator.url, **settings) as fleet,
    ):
        load = FleetLoad(fleet, callers, pause=1.0)
        load.start()
        fleet.kill_at_random(KILLS, interval=(0.2, 1.5))
        fleet.start()
        load.finish(timeout=120)
        found = audit(own_server, simulator, load)

    assert [] == [*found.lost, *found.twice, *found.errors]
    assert found.generations == found.predictions
    assert found.throttled == 0
    assert found.densest <= A_MINUTE
    assert found.in_flight_peak <= SLOTS
