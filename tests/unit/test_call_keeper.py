"""Tests of the part of the holder that keeps the gate of calls."""

import asyncio

from admission.metered.demand import Demand
from admission.metered.limits import MeteredLimits
from cluster.call_keeper import CallKeeper
from concurrency import Gate
from metering.gate import MeteredGate
from tests.support.virtual_time import in_virtual_time


@in_virtual_time
async def test_a_limit_that_changes_while_a_holder_begins_reaches_its_gate():
    creations = Gate(concurrent_limit=10, requests_per_minute=60)
    limits = {}

    def new_gate(_):
        gate = MeteredGate(concurrent_limit=10, limits=MeteredLimits())
        for caller, per_minute in limits.items():
            gate.limit_caller(caller, per_minute=per_minute)
        return gate

    async def count_day():
        await asyncio.sleep(1.0)
        limits["key_shop"] = 1  # as `RemoteMeteredGate.limit_caller`, which finds no gate here yet
        return ()

    keeper = CallKeeper(new_gate, count_day=count_day)
    await keeper.begin(creations, settled_ago=1000.0, on_admitted=lambda: None)

    demand = Demand(caller="key_shop", account="admin", model="lite", tokens=10, micro_usd=10)
    leases = [keeper.gate.request(demand) for _ in range(2)]
    await asyncio.sleep(0.1)
    assert [True, False] == [each.granted.done() for each in leases]
