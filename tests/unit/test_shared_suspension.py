"""Suspended work in a ledger that several processes share: of all who want to resume or end it, one does."""

import asyncio
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from auth import Principal
from errors import LedgerDown
from generations.batch import Batch
from generations.core import Core
from ledger.memory import MemoryLedger
from ledger.records import BatchRecord, GenerationRecord
from providers.memory import MemoryProvider
from tests.support.ledgers import LossyLedger
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import ADMIN, USER, a_picture, core, pictures, submission

OWNER = Principal(USER.id, role="user", caller=USER)
OPERATOR = Principal(ADMIN.id, role="admin", caller=ADMIN)

COMMIT_SECONDS = 0.001

LEADS = [-0.0035, -0.0025, -0.0015, -0.0005, 0.0, 0.0005, 0.0015, 0.0025, 0.0035, 0.02]
"""Seconds by which one of two events comes before the other."""


class Ledger(LossyLedger):
    """Counts the ends of batches."""

    batches_ended = 0

    def mark_dirty(self, source):
        super().mark_dirty(source)
        self.batches_ended += isinstance(source, Batch) and source.has_ended


class World:
    """Processes on one ledger before one provider."""

    def __init__(self, *outcomes) -> None:
        self.provider = MemoryProvider(*outcomes, ends_after=10.0)
        self.disk = MemoryLedger()

        self.ledgers: dict[str, Ledger] = {}

    def process(self, name) -> Core:
        self.ledgers[name] = Ledger(self.disk.rows, commit_seconds=COMMIT_SECONDS, process=name)
        return core(self.provider, ledger=self.ledgers[name])

    def bury(self, name) -> None:
        """Let a process write nothing any more, and suspend its work as another one does."""
        self.ledgers[name].trouble = "It was buried."
        for key, record in self.disk.rows[GenerationRecord].items():
            if record.process == name and not record.has_ended:
                suspended = replace(record, process=None, suspended_at=time.time())
                self.disk.rows[GenerationRecord][key] = suspended
        for key, record in self.disk.rows[BatchRecord].items():
            if record.process == name and record.ended_at is None:
                self.disk.rows[BatchRecord][key] = replace(record, process=None)

    async def left_behind(self, request, **fields) -> str:
        """The id of work that a process has left when it was buried: one generation is running, the rest queues."""
        dead = self.process("dead")
        dead.gate.configure(concurrent_limit=1)
        work = await dead.generations.submit(submission(request, USER, wait_seconds=0, **fields))
        await asyncio.sleep(1)
        self.bury("dead")
        return work.id

    def batches_ended(self) -> int:
        """How often a process has ended a batch."""
        assert not self.disk.unfinished_batches()
        return sum(each.batches_ended for each in self.ledgers.values())

    def states(self) -> list[str]:
        return [each.state for each in self.disk.all(GenerationRecord)]


async def later(seconds, work):
    await asyncio.sleep(0.1 + seconds)
    return await work


@pytest.mark.parametrize("lead", LEADS)
@in_virtual_time
async def test_one_of_two_processes_to_which_the_owner_returns_resumes_the_work(lead):
    world = World()
    work_id = await world.left_behind(pictures(["a", "b", "c"]))
    one, other = world.process("a"), world.process("b")

    shown = await asyncio.gather(
        later(0.0, one.generations.get(work_id, OWNER)), later(lead, other.generations.get(work_id, OWNER))
    )
    await asyncio.sleep(100)

    assert [work_id] * 2 == [each.id for each in shown]
    assert ["succeeded"] * 3 == world.states()
    assert 3 == len(world.provider.sent)
    assert 1 == sum(process.runner.ended["succeeded"] == 3 for process in (one, other))


@pytest.mark.parametrize("lead", LEADS)
@in_virtual_time
async def test_work_that_one_process_cancels_and_another_resumes_is_either_cancelled_or_run(lead):
    world = World()
    work_id = await world.left_behind(a_picture())
    one, other = world.process("a"), world.process("b")

    await asyncio.gather(
        later(0.0, one.generations.cancel(work_id, OPERATOR)),
        later(lead, other.generations.get(work_id, OWNER)),
    )
    await asyncio.sleep(100)

    (state,) = world.states()
    ran = other.runner.ended["succeeded"]
    assert (state, ran) in {("canceled", 0), ("succeeded", 1)}
    assert 1 == len(world.provider.sent), "its prediction was running when its process died"


@pytest.mark.parametrize("lead", LEADS)
@in_virtual_time
async def test_work_that_two_processes_expire_ends_once(lead):
    world = World()
    await world.left_behind(pictures(["a", "b"]))
    await world.left_behind(a_picture())
    one, other = world.process("a"), world.process("b")

    with capture_logs() as logs:
        await asyncio.gather(
            later(0.0, one.suspension.expire(before=1e12)), later(lead, other.suspension.expire(before=1e12))
        )
        await asyncio.sleep(5)

    assert ["failed"] * 3 == world.states()
    assert 3 == [each["event"] for each in logs].count("generation_ended")
    assert 1 == world.batches_ended()


@pytest.mark.parametrize("lead", LEADS)
@in_virtual_time
async def test_a_batch_whose_last_items_two_processes_cancel_ends_once(lead):
    world = World()
    work_id = await world.left_behind(pictures(["a", "b"]))
    one, other = world.process("a"), world.process("b")
    items = [each.id for each in world.disk.batch_items(work_id)]

    await asyncio.gather(
        later(0.0, one.generations.cancel(items[0], OPERATOR)),
        later(lead, other.generations.cancel(items[1], OPERATOR)),
    )
    await asyncio.sleep(1)

    assert ["canceled"] * 2 == world.states()
    assert 1 == world.batches_ended()


@pytest.mark.parametrize("lead", LEADS)
@in_virtual_time
async def test_an_item_that_one_process_cancels_is_not_run_by_another_that_resumes_its_batch(lead):
    world = World()
    work_id = await world.left_behind(pictures(["a", "b", "c"]))
    one, other = world.process("a"), world.process("b")
    last = world.disk.batch_items(work_id)[2].id

    cancelled, _ = await asyncio.gather(
        later(0.0, one.generations.cancel(last, OPERATOR)), later(lead, other.generations.get(work_id, OWNER))
    )
    await asyncio.sleep(100)

    assert cancelled.id == last
    assert not world.disk.unfinished_batches()
    expected = ["succeeded", "succeeded", "canceled"] if cancelled.has_ended else ["succeeded"] * 3
    assert expected == [each.state for each in world.disk.batch_items(work_id)]
    assert len(world.provider.sent) == expected.count("succeeded")


@in_virtual_time
async def test_a_caller_that_leaves_while_its_work_is_resumed_leaves_it_running():
    world = World()
    work_id = await world.left_behind(a_picture())
    one = world.process("a")
    leaving = asyncio.create_task(one.generations.get(work_id, OWNER))
    await asyncio.sleep(COMMIT_SECONDS / 2)

    leaving.cancel()
    await asyncio.sleep(100)

    assert ["succeeded"] == world.states()


@pytest.mark.parametrize("what", ["resume", "cancel", "expire"])
@in_virtual_time
async def test_what_a_lost_answer_of_the_ledger_interrupted_is_done_later(what):
    world = World()
    work_id = await world.left_behind(pictures(["a", "b"]))
    one = world.process("a")
    world.ledgers["a"].lost = 1

    interrupted = {
        "resume": lambda: one.generations.get(work_id, OWNER),
        "cancel": lambda: one.generations.cancel(work_id, OPERATOR),
        "expire": lambda: one.suspension.expire(before=1e12),
    }
    with pytest.raises(LedgerDown):
        await interrupted[what]()
    await one.generations.tidy_up(resume_ttl=1e6)
    await asyncio.sleep(100)

    assert [{"resume": "succeeded", "cancel": "canceled", "expire": "failed"}[what]] * 2 == world.states()
    assert not world.disk.unfinished_batches()


@pytest.mark.parametrize("keyed", [a_picture(), pictures(["a", "b", "c"])], ids=["one", "batch"])
@in_virtual_time
async def test_a_caller_who_waits_for_another_process_gets_the_result_after_its_death(keyed):
    world = World()
    dead, here = world.process("dead"), world.process("a")
    dead.gate.configure(concurrent_limit=1)
    first = asyncio.create_task(dead.generations.submit(submission(keyed, USER, key="k")))
    await asyncio.sleep(1)
    seen = []
    again = asyncio.create_task(
        here.generations.submit(
            submission(keyed, USER, key="k"), on_item_done=lambda _, index: seen.append(index)
        )
    )
    await asyncio.sleep(14)  # one item has ended

    world.bury("dead")

    assert (await again).has_ended
    assert {"succeeded"} == {*world.states()}
    assert len({*seen}) == len(seen), "each item once"
    assert len(seen) == (0 if len(world.states()) == 1 else 3)
    assert len(world.provider.sent) == len(world.states())
    first.cancel()


@in_virtual_time
async def test_a_batch_that_a_dying_process_did_not_end_is_ended_by_another():
    world = World()
    work_id = await world.left_behind(pictures(["a", "b"]))
    for key, record in world.disk.rows[GenerationRecord].items():
        ended = replace(record, state="canceled", ended_at=1.0, suspended_at=None)
        world.disk.rows[GenerationRecord][key] = ended
    one, other = world.process("a"), world.process("b")

    await asyncio.gather(one.generations.tidy_up(resume_ttl=1e6), other.generations.tidy_up(resume_ttl=1e6))

    assert world.disk.batch(work_id).ended_at is not None
    assert 1 == world.batches_ended()
