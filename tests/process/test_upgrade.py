"""Two versions of the service on one PostgreSQL under load: the next one replaces this one, and is replaced by it."""

import pytest

from harness.fleet import ADMIN, running_fleet
from harness.fleet_audit import audit
from harness.fleet_load import FleetLoad
from harness.service_process import ROOT, until
from ledger.migrations import PRESENT
from simulator import Options, running
from tests.support.recipes import RECIPES, copied, edit

pytestmark = pytest.mark.slow

A_MINUTE = 600
SLOTS = 12
LARGEST_BATCH = 5
"""Of the user, whose work holds no slots after a kill until the next request. It may still run then."""


@pytest.fixture
def successor(tmp_path):
    """A copy of the project whose ledger has one more column, which it writes, and one more table."""
    tree = copied(tmp_path / "successor")
    for step in RECIPES["ledger column"]["steps"]:
        edit(tree, step)
    replace(tree / "ledger/records.py", "region: str | None = None", 'region: str | None = "here"')
    replace(
        tree / "ledger/migrations.py",
        '("ALTER TABLE attempts ADD COLUMN region TEXT",)',
        '("ALTER TABLE attempts ADD COLUMN region TEXT", "CREATE TABLE visits (process TEXT PRIMARY KEY)")',
    )
    enter = "        cursor.execute(_FORGET)\n"
    visit = '        cursor.execute("INSERT INTO visits (process) VALUES (%s)", (self.id,))\n'
    replace(tree / "ledger/members.py", enter, enter + visit)
    return tree


def replace(path, old, new):
    text = path.read_text()
    assert 1 == text.count(old), f"{path} has this once: {old!r}"
    path.write_text(text.replace(old, new))


@pytest.mark.long
def test_an_upgrade_under_load_and_the_way_back_lose_nothing_and_pay_nothing_twice(own_server, successor):
    def count(condition):
        [[found]] = own_server.execute(f"SELECT count(*) FROM {condition}")
        return found

    def work_goes_on():
        before = count("generations WHERE state = 'succeeded'")
        until(lambda: count("generations WHERE state = 'succeeded'") >= before + 5, timeout=60)

    options = Options(
        prediction_seconds=0.5, jitter=0.8, answer_delay=(0.0, 0.2), creations_per_minute=A_MINUTE, seed=1
    )
    settings = {
        "REPLICATE_CONCURRENT_LIMIT": SLOTS,
        "REPLICATE_REQUESTS_PER_MINUTE": A_MINUTE,
        "PROCESS_TTL": 2,
    }
    callers = [*([ADMIN] * 3), {"X-Replicate-API-Key": "r8_user"}]
    with (
        running(options) as simulator,
        running_fleet(2, own_server, REPLICATE_BASE_URL=simulator.url, **settings) as fleet,
    ):
        first, second = fleet.members

        def replaced(member, tree, end):
            end()
            member.tree = tree
            fleet.start()
            work_goes_on()

        load = FleetLoad(fleet, callers, pause=0.5)
        load.start()
        work_goes_on()
        replaced(first, successor, first.terminate)
        replaced(second, successor, second.terminate)
        by_old = count("attempts WHERE region IS NULL")
        replaced(first, ROOT, first.terminate)
        replaced(second, ROOT, second.kill)
        load.finish(timeout=120)
        found = audit(own_server, simulator, load)

    assert [] == [*found.lost, *found.twice, *found.errors]
    assert found.generations == found.predictions
    assert found.throttled == 0
    assert found.densest <= A_MINUTE
    assert found.in_flight_peak <= SLOTS + LARGEST_BATCH
    assert 0 < count("attempts WHERE region = 'here'")
    assert by_old < count("attempts WHERE region IS NULL")
    assert 0 < count("visits")
    assert [(PRESENT,), (PRESENT + 1,)] == own_server.execute(
        "SELECT DISTINCT schema FROM processes ORDER BY 1"
    )
