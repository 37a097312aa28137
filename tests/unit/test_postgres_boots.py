"""Three processes on one PostgreSQL let predictions of one version boot in half of their slots."""

import asyncio
from contextlib import AsyncExitStack

from cluster.keeper import Keeper
from cluster.remote import RemoteGate
from contract.callers import ADMIN
from harness.postgres import server
from ledger.leases import LeaseTable
from tests.support.couriers import process_on
from tests.support.shared_gate import without_calls
from tests.support.wiring import on_a_loop

LIMITS = {"concurrent_limit": 4, "requests_per_minute": 600}


class Processes:
    """Gates of processes on one schema. Their tasks run until `aclose`."""

    def __init__(self):
        self.gates = []
        self._tasks = []

    def add(self, ledger, courier):
        async def held(_gate): ...

        async def tell(_event, _arguments): ...

        table = LeaseTable(courier, ledger.process)
        keeper = Keeper(
            table, lambda: gate.new_gate(), on_held=held, on_lost=lambda: None, calls=without_calls()
        )
        gate = RemoteGate(table, ledger, keeper, tell=tell, **LIMITS)
        self.gates.append((gate, ledger))
        self._tasks += [asyncio.create_task(each.run()) for each in (keeper, gate)]

    async def aclose(self):
        for each in self._tasks:
            each.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Version:
    """Predictions of one version. The first ones wait until two of them boot."""

    def __init__(self):
        self.booting = self.most = 0
        self._two = asyncio.Event()

    async def predict(self, gate, ledger, number):
        with await gate.acquire(ADMIN, boots="cold") as lease:
            self.booting += 1
            self.most = max(self.most, self.booting)
            if self.booting == 2:
                self._two.set()
            await self._two.wait()
            await lease.persist(ledger, f"gen_{number}.1", 60.0)
            lease.sent()
            lease.answered()
            self.booting -= 1
            lease.started()


@on_a_loop
async def test_boots_of_three_processes_on_one_postgresql_hold_half_of_the_slots():
    with server().schema() as schema:
        async with AsyncExitStack() as stack:
            processes, version = Processes(), Version()
            for _ in range(3):
                processes.add(*await stack.enter_async_context(process_on(server().url(schema=schema))))
            stack.push_async_callback(processes.aclose)
            async with asyncio.timeout(60):
                await asyncio.gather(
                    *(version.predict(*processes.gates[number % 3], number) for number in range(9))
                )

    assert (2, 0) == (version.most, version.booting)
