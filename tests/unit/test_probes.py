"""While the outcome of a creation is unknown, a process whose work waits makes a request each few seconds."""

import asyncio

import pytest

from cluster import probes
from cluster.letters import Letters
from concurrency import Gate
from contract.callers import ADMIN as ADMIN_TURN
from ledger.memory import MemoryLedger
from providers.memory import MemoryProvider
from tests.support.places import PlacesLoop
from tests.support.post import PostOffice
from tests.support.shared_database import Database, Generation
from tests.support.shared_service import Service
from tests.support.shared_upstream import Upstream
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import USER, a_picture, core, submission


@in_virtual_time
async def test_the_upstream_is_asked_each_three_seconds_while_a_creation_is_in_doubt():
    gate = Gate(concurrent_limit=2, requests_per_minute=60)
    asked = []

    async def ask():
        asked.append(asyncio.get_running_loop().time())
        if len(asked) == 1:
            raise LookupError

    running = asyncio.create_task(probes.run(gate, ask))
    await asyncio.sleep(10.0)
    assert [] == asked

    lease = gate.adopt("anna", lost=1.0)
    await asyncio.sleep(10.0)
    assert [12.0, 15.0, 18.0] == asked

    lease.answered()
    await asyncio.sleep(10.0)
    running.cancel()
    assert [12.0, 15.0, 18.0] == asked


class CountingProvider(MemoryProvider):
    def __init__(self):
        super().__init__()
        self.asked = []

    async def account_of(self, caller):
        self.asked.append(caller.id)
        return await super().account_of(caller)


@pytest.mark.parametrize("waits", [True, False])
@in_virtual_time
async def test_the_account_of_a_caller_is_read_if_its_work_waits_for_a_creation_in_doubt(waits):
    gate = Gate(concurrent_limit=2, requests_per_minute=60)
    provider, office = CountingProvider(), PostOffice()
    inside = core(
        provider, gate=gate, ledger=MemoryLedger(process="here"), letters=Letters(office.post("here"))
    )
    lost = gate.adopt("anna", lost=1.0)
    if waits:
        await inside.generations.submit(submission(a_picture(), USER, wait_seconds=0))
    running = asyncio.create_task(inside.run_shared())
    await asyncio.sleep(4.0)

    assert [USER.id] * waits == provider.asked
    lost.release()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await inside.supervisor.drain(0)


def test_work_goes_on_after_a_process_has_died_with_the_only_requests():
    async def scenario():
        database, upstream = Database(), Upstream()
        seconds = {"gen_1": 1.0, "gen_2": 1.0}
        limits = {"concurrent_limit": 1, "requests_per_minute": 60}
        first, second = (Service(database, upstream, f"h:{each}:x", seconds, **limits) for each in (1, 2))
        first.others = second.others = [first, second]
        await asyncio.sleep(0.5)
        first.submit(Generation("gen_1", "anna", None, None))
        await asyncio.sleep(0.05)
        assert "submitting" == database.generations["gen_1"].state
        first.die()
        second.submit(Generation("gen_2", ADMIN_TURN, None, None))
        await asyncio.sleep(90.0)
        first.cancel()
        return database.generations

    with asyncio.Runner(loop_factory=PlacesLoop) as runner:
        generations = runner.run(scenario())

    assert "ended" == generations["gen_2"].state
    assert generations["gen_1"].is_suspended
