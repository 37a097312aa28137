"""Two processes on one ledger have different tokens of one account in their files for a while."""

import pytest

from harness.service_process import until
from tests.support.api_client import ended, state, submit
from tests.support.callers import ADMIN

FIRST, SECOND = "r8_first-token", "r8_second-token"

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def test_a_process_continues_work_that_another_began_with_another_token(make_app, simulator, tmp_path):
    simulator.account(SECOND, same_as=FIRST)
    apps = []
    for name, token in (("one", FIRST), ("other", SECOND)):
        (tmp_path / name).write_text(token)
        apps.append(make_app(REPLICATE_API_TOKEN="", REPLICATE_API_TOKEN_FILE=tmp_path / name))
    one, other = (each.test_client() for each in apps)
    running = submit(one, "[[hang]] a fox", by=ADMIN)
    until(lambda: "running" == state(one, running, by=ADMIN))
    simulator.inject(on="create", reset="after")
    simulator.inject(on="list", status=503, times=1000)  # the search is left to the other process
    lost = submit(one, "[[hang]] a lost fox", by=ADMIN)
    until(lambda: 2 == simulator.counts().creations_accepted)
    apps[0].extensions["service"].close()
    simulator.account(FIRST, reject=True)
    simulator.server.state.faults.clear()
    until(lambda: "running" == state(other, lost, by=ADMIN))
    simulator.finish()

    assert ["succeeded"] * 2 == [ended(other, each, by=ADMIN)["status"] for each in (running, lost)]
    assert 2 == simulator.counts().creations_accepted
