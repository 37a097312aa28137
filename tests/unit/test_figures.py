"""The figures of all processes on one ledger."""

import asyncio
import json

from admission.metered.limits import MeteredLimits
from cluster import call_figures
from cluster.figures import PAUSE, AllFigures
from cluster.mirror import figures_of, read_figures
from concurrency import Gate
from errors import LedgerDown
from harness.postgres import server
from ledger.post import ProcessRow
from ledger.processes import SqlProcesses
from metering.gate import MeteredGate
from tests.support.couriers import process_on
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import on_a_loop


class Table:
    """The processes in memory: the figures of each that is alive."""

    def __init__(self, rows, process):
        self._rows = rows
        self.process = process

    async def exchange(self, figures):
        if self.process not in self._rows:
            raise LedgerDown("away")
        self._rows[self.process] = figures
        return [
            ProcessRow(each, 1.0, "1", found, each == "host:1:a", 1000.0)
            for each, found in self._rows.items()
        ]


@in_virtual_time
async def test_a_process_sees_its_own_figures_as_they_are_and_others_a_pause_late():
    rows = {"host:1:a": "{}", "other:host:2:b": "{}"}
    own = {"in_flight": 1}
    read = []
    a = AllFigures(Table(rows, "host:1:a"), lambda: own, read.append)
    b = AllFigures(Table(rows, "other:host:2:b"), lambda: {"in_flight": 7})
    assert [] == a.all()
    tasks = [asyncio.create_task(each.run()) for each in (a, b)]
    await asyncio.sleep(PAUSE + 0.1)
    own["in_flight"] = 2

    assert read[-1][1].figures == {"in_flight": 7}
    assert [2, 7] == [each.figures["in_flight"] for each in a.all()]
    assert [1, 7] == [each.figures["in_flight"] for each in b.all()]
    assert [("host", 1, True), ("other:host", 2, False)] == [(p.host, p.pid, p.holds_gate) for p in a.all()]
    del rows["other:host:2:b"]  # it died
    await asyncio.sleep(PAUSE)
    assert 1 == len(a.all())
    assert 2 == len(b.all())  # as it knew them last, while the ledger is away
    for task in tasks:
        task.cancel()


@in_virtual_time
async def test_a_process_knows_how_far_the_clocks_of_other_machines_are_ahead_of_its_own():
    rows = {"host:1:a": "{}", "other:2:b": "{}"}
    a = AllFigures(Table(rows, "host:1:a"), dict, clock=lambda: 1003.0)
    b = AllFigures(Table(rows, "other:2:b"), dict, clock=lambda: 990.0)
    tasks = [asyncio.create_task(each.run()) for each in (a, b)]
    await asyncio.sleep(0)
    assert None is b.all()[0].clock_ahead
    await asyncio.sleep(3 * PAUSE)

    assert -13.0 == a.all()[1].clock_ahead
    assert 13.0 == b.all()[0].clock_ahead
    for task in tasks:
        task.cancel()


def with_more(value):
    """What a later version may publish: each record has a field that this version does not know."""
    if isinstance(value, dict) and value:
        return {name: with_more(each) for name, each in value.items()} | {"a later field": [1]}
    return [with_more(each) for each in value] if isinstance(value, list) else value


@in_virtual_time
async def test_figures_of_the_gate_of_a_later_version_are_read_as_far_as_they_are_known():
    gate = Gate(concurrent_limit=1, requests_per_minute=9)
    for caller in ("a", "b"):
        gate.request(caller, batch="batch")
    calls = MeteredGate(concurrent_limit=1, limits=MeteredLimits())
    figures = json.loads(figures_of(gate, call_figures.figures_of(calls, ())))

    assert read_figures(figures, now=1.0) == read_figures(with_more(figures), now=1.0)


@on_a_loop
async def test_processes_exchange_figures_through_the_database():
    with server().schema() as schema:
        url = server().url(schema=schema)
        async with process_on(url) as first, process_on(url) as second:
            one, other = (SqlProcesses(courier, ledger.process) for ledger, courier in (first, second))
            await one.exchange('{"a": 1}')
            server().execute(
                f"INSERT INTO {schema}.roles (name, holder, term, until)"
                f" VALUES ('gate', '{other.process}', 1, now())"
            )
            rows = await other.exchange('{"a": 2}')

            assert [(one.process, '{"a": 1}', False), (other.process, '{"a": 2}', True)] == [
                (each.id, each.figures, each.holds_gate) for each in rows
            ]
            server().execute(f"UPDATE {schema}.processes SET dead_at = now() WHERE id = '{one.process}'")
            assert [other.process] == [each.id for each in await other.exchange("{}")]
