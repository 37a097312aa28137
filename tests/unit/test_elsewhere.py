"""Work that runs in another process on the same ledger: its callers wait for it as for work here."""

import asyncio
from dataclasses import dataclass

import pytest

from auth import Principal
from errors import LedgerDown, ShuttingDown
from generations.core import Core
from generations.progress import PAUSE
from generations.service import HandedOver
from ledger.memory import MemoryLedger
from providers.memory import MemoryProvider
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import (
    ADDRESS,
    ADMIN,
    USER,
    a_picture,
    core,
    failed,
    pictures,
    submission,
    succeeded,
)

OWNER = Principal(USER.id, role="user", caller=USER)


class Counting(MemoryLedger):
    """A ledger that counts the queries for progress, and refuses them while it is `unreadable`."""

    reads = 0
    unreadable = False

    def progress(self, work_ids):
        self.reads += 1
        if self.unreadable:
            raise LedgerDown("It cannot be read.")
        return super().progress(work_ids)


@dataclass
class Process:
    core: Core
    ledger: Counting
    provider: MemoryProvider

    def submit(self, request, *, by=USER, on_item_done=None, **fields) -> asyncio.Task:
        submitted = submission(request, by, **{"key": "k"} | fields)
        return asyncio.create_task(self.core.generations.submit(submitted, on_item_done=on_item_done))


def processes(*outcomes, count=2, **settings) -> list[Process]:
    rows = MemoryLedger().rows
    made = []
    for number in range(count):
        ledger = Counting(rows, commit_seconds=0.001, process=f"p{number}")
        provider = MemoryProvider(*outcomes, ends_after=10.0)
        made.append(Process(core(provider, ledger=ledger, **settings), ledger, provider))
    return made


@pytest.mark.parametrize("outcome", [succeeded(), failed("The model broke.")])
@in_virtual_time
async def test_a_repeated_request_gets_the_end_of_work_in_another_process(outcome):
    here, there = processes(outcome, outcome, outcome, outcome)
    first = there.submit(a_picture())
    await asyncio.sleep(1)

    again = await here.submit(a_picture())

    ended = await first
    assert ended.state == again.state
    assert again == here.ledger.generation(ended.id)
    assert [] == here.provider.sent


@in_virtual_time
async def test_a_request_at_the_same_moment_makes_one_work_and_both_get_its_end():
    here, there = processes()

    one, other = await asyncio.gather(here.submit(a_picture()), there.submit(a_picture()))

    assert one.id == other.id
    assert one.has_ended
    assert other.has_ended
    assert 1 == len(here.provider.sent) + len(there.provider.sent)


@in_virtual_time
async def test_a_wait_of_some_seconds_ends_before_work_in_another_process():
    here, there = processes()
    first = there.submit(a_picture())
    await asyncio.sleep(1)
    clock = asyncio.get_running_loop().time
    began = clock()

    again = await here.submit(a_picture(), wait_seconds=3.0)

    assert 3.0 == pytest.approx(clock() - began, abs=0.01)
    assert not again.has_ended
    assert "running" == (await here.core.generations.describe(again, ADDRESS))["status"]
    assert (await here.submit(a_picture(), wait_seconds=0)).id == again.id
    await first


@in_virtual_time
async def test_all_waits_share_one_query_each_half_second():
    here, there = processes()
    for number in range(20):
        there.submit(a_picture(), key=f"k{number}")
    await asyncio.sleep(1)

    waiting = [here.submit(a_picture(), key=f"k{number}") for number in range(20)]
    await asyncio.sleep(0.1)
    here.ledger.reads = 0  # without those that look for the work of the keys
    await asyncio.sleep(5)
    assert 5 / PAUSE - 1 <= here.ledger.reads <= 5 / PAUSE + 1
    assert all([(await each).has_ended for each in waiting])

    reads = here.ledger.reads
    await asyncio.sleep(60)
    assert reads == here.ledger.reads


@in_virtual_time
async def test_an_unreadable_ledger_ends_no_wait():
    here, there = processes()
    first = there.submit(a_picture())
    await asyncio.sleep(1)
    again = here.submit(a_picture())
    await asyncio.sleep(1)

    here.ledger.unreadable = True
    await asyncio.sleep(20)
    assert not again.done()
    here.ledger.unreadable = False

    assert (await again).has_ended
    await first


@in_virtual_time
async def test_each_item_of_a_batch_in_another_process_is_passed_on_once_as_it_ends():
    here, there = processes(*(succeeded(), failed("The model broke.")) * 9, REPLICATE_CONCURRENT_LIMIT=1)
    first = there.submit(pictures(["a", "b", "c", "d", "e"], max_concurrent=1))
    await asyncio.sleep(15)
    seen = []
    clock = asyncio.get_running_loop().time

    batch = await here.submit(
        pictures(["a", "b", "c", "d", "e"], max_concurrent=1),
        on_item_done=lambda batch, index: seen.append((clock(), index, batch.item(index, ADDRESS))),
    )

    assert (await first).result(ADDRESS)["results"] == batch.result(ADDRESS)["results"]
    assert [0, 1, 2, 3, 4] == [index for _, index, _ in seen]
    assert batch.result(ADDRESS)["results"] == [body for _, _, body in seen]
    moments = [moment for moment, _, _ in seen]
    assert 5 == len({*moments}), "each as it ends"


@in_virtual_time
async def test_a_drain_ends_the_waits_for_work_in_another_process():
    here, there = processes()
    first = there.submit(a_picture())
    await asyncio.sleep(1)
    again = here.submit(a_picture())
    await asyncio.sleep(1)

    await here.core.supervisor.drain(30)

    with pytest.raises(HandedOver) as refused:
        await again
    assert isinstance(refused.value.error, ShuttingDown)
    assert (await first).id == refused.value.work.id


@in_virtual_time
async def test_events_of_a_generation_in_another_process_are_those_of_one_here():
    here, there = processes(succeeded())
    first = there.submit(a_picture())
    await asyncio.sleep(0.1)
    shown = []
    for each in (here, there):
        work = await each.core.generations.get(first_id(there), OWNER)
        shown.append(await each.core.generations.subscribe(work, ADDRESS))
    await first
    await asyncio.sleep(1)

    elsewhere, here = ([each.events.get_nowait().name for _ in range(each.events.qsize())] for each in shown)
    assert ["queued", "running", "done"] == elsewhere
    assert elsewhere == [name for name in here if name != "progress"]


@in_virtual_time
async def test_a_caller_that_unsubscribes_ends_the_reading_of_events():
    here, there = processes()
    first = there.submit(a_picture(), by=ADMIN)
    await asyncio.sleep(0.1)
    admin = Principal(ADMIN.id, role="admin", caller=ADMIN)
    work = await here.core.generations.get(first_id(there), admin)
    subscription = await here.core.generations.subscribe(work, ADDRESS)
    await asyncio.sleep(2)

    await here.core.generations.unsubscribe(subscription)
    await asyncio.sleep(1)
    reads = here.ledger.reads
    await asyncio.sleep(5)

    assert reads == here.ledger.reads
    await first


def first_id(process: Process) -> str:
    (record,) = process.ledger.unfinished()
    return record.id
