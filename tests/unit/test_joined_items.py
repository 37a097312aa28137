"""Batches with items that other requests made: they are waited for, wherever these run, and made once."""

import asyncio
import functools
import time
from dataclasses import replace

import pytest

from errors import IdempotencyConflict, LedgerDown, QueueFull
from generations.batch import Batch
from generations.recovery import load_startup_state
from generations.service import HandedOver
from generations.submission import ItemKey, body_fingerprint
from generations.supervisor import new_id
from ledger.memory import MemoryLedger
from ledger.records import BatchRecord, GenerationRecord, KeyRecord
from providers.memory import MemoryProvider
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import ADMIN, USER, Immediate, a_picture, core, pictures, submission, succeeded
from tests.unit.test_shared_suspension import LEADS, OWNER, World, later


def bounded(test):
    """A test that fails after some virtual time. Without an end, it would look at rows for ever."""

    @functools.wraps(test)
    async def in_time(*arguments, **named):
        async with asyncio.timeout(1000):
            await test(*arguments, **named)

    return in_time


def batch_of(names, *, by=USER, key=None, **fields):
    """A submission of a batch in which each item has its name as prompt and key. Names in capitals have no key."""
    keys = {
        place: ItemKey(name, body_fingerprint("gen", name), new_id("gen"))
        for place, name in enumerate(names)
        if name.islower()
    }
    return submission(pictures(list(names)), by, item_keys=keys, key=key, **fields)


def single(name, *, by=USER, **fields):
    return submission(a_picture(name), by, key=name, fingerprint=body_fingerprint("gen", name), **fields)


def submitted(process, wanted, **more) -> asyncio.Task:
    return asyncio.create_task(process.generations.submit(wanted, **more))


def prompts(world) -> list[str]:
    return sorted(each[1]["prompt"] for each in world.provider.sent)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("other", ["bcd", "dcb", "cd", "abc", "xa"])
@in_virtual_time
@bounded
async def test_overlapping_batches_in_two_processes_at_one_moment_make_each_item_once(lead, other):
    world = World()
    one, two = world.process("one"), world.process("two")

    shown = await asyncio.gather(
        later(0.0, one.generations.submit(batch_of("abc"))),
        later(lead, two.generations.submit(batch_of(other))),
    )

    ids = {item.record().prompt: item.id for item in shown[0].items}
    assert all(item.succeeded for batch in shown for item in batch.items)
    assert all(ids.get(item.record().prompt, item.id) == item.id for item in shown[1].items)
    assert sorted({*"abc", *other}) == sorted(each.prompt for each in world.disk.all(GenerationRecord))
    assert len(world.provider.sent) == len({*"abc", *other})


@in_virtual_time
@bounded
async def test_a_batch_shows_each_item_once_as_it_ends_also_one_that_runs_in_another_process():
    world = World()
    one, two = world.process("one"), world.process("two")
    first = submitted(one, batch_of("ab"))
    await asyncio.sleep(3)
    clock, seen = asyncio.get_running_loop().time, []

    batch = await two.generations.submit(
        batch_of("bcX"),
        on_item_done=lambda batch, index: seen.append((index, batch.items[index].has_ended, clock())),
    )

    assert [(0, True), (1, True), (2, True)] == [each[:2] for each in sorted(seen)]
    at = {index: moment for index, _, moment in seen}
    assert 1 < at[1] - at[0] < 4, "the joined one began three seconds before"
    assert batch.has_ended
    assert [(await first).items[1].id] == [*batch.joined.values()]
    assert 4 == len(world.provider.sent)


@in_virtual_time
@bounded
async def test_a_repeated_batch_in_a_third_process_shows_each_item_once():
    world = World()
    one, two, three = map(world.process, ("one", "two", "three"))
    first = submitted(one, batch_of("ab", wait_seconds=None))
    await asyncio.sleep(1)
    second = submitted(two, batch_of("bc", key="k"))
    await asyncio.sleep(1)
    seen = []

    third = await three.generations.submit(
        batch_of("bc", key="k"), on_item_done=lambda batch, index: seen.append((index, batch.items[index].id))
    )

    assert (await second).id == third.id
    await first
    assert [(place, each.id) for place, each in enumerate(third.items)] == sorted(seen)
    assert 3 == len(world.provider.sent)


@in_virtual_time
@bounded
async def test_a_waiting_owner_resumes_a_joined_item_whose_process_has_died():
    world = World()
    dead, here = world.process("dead"), world.process("here")
    running = submitted(dead, batch_of("ab"))
    await asyncio.sleep(1)
    waiting = submitted(here, batch_of("bc"))
    await asyncio.sleep(1)

    world.bury("dead")
    batch = await waiting

    assert ["succeeded"] * 2 == [each.state for each in batch.items]
    assert ["succeeded"] * 3 == world.states()
    running.cancel()
    assert 3 == len(world.provider.sent)


@in_virtual_time
@bounded
async def test_an_owner_who_looks_a_batch_up_resumes_the_items_that_it_joined():
    world = World()
    dead, here = world.process("dead"), world.process("here")
    running = submitted(dead, single("b", wait_seconds=None))
    await asyncio.sleep(1)
    started = await here.generations.submit(batch_of("bc", wait_seconds=0))
    world.bury("dead")
    await asyncio.sleep(50)
    assert not started.has_ended
    shown = await here.generations.describe(started, "")
    assert "waiting_for_owner_since" in shown

    await here.generations.get(started.id, OWNER)
    await asyncio.sleep(50)

    assert started.has_ended
    assert ["succeeded"] * 2 == world.states()
    assert 1 == world.batches_ended()
    running.cancel()


@in_virtual_time
@bounded
async def test_a_batch_that_waits_only_for_joined_items_goes_on_after_a_restart():
    world = World()
    dead, other = world.process("dead"), world.process("other")
    running = await other.generations.submit(single("slow", wait_seconds=0))
    await asyncio.sleep(6)
    started = await dead.generations.submit(batch_of(["slow", "Own"], wait_seconds=0))
    await asyncio.sleep(0.1)
    own = next(each for each in world.disk.all(GenerationRecord) if each.prompt == "Own")
    world.ledgers["dead"].trouble = "It was killed."
    world.disk.rows[GenerationRecord][own.id,] = replace(own, state="failed", ended_at=1.0)

    next_one = world.process("next")
    state = load_startup_state(
        world.disk,
        next_one.recovery,
        lambda _: None,
        limits=next_one.provider.limits,
        simulated=True,
        now=0.0,
    )
    next_one.suspension.resume(state.restored)
    await asyncio.sleep(0.1)
    assert world.disk.batch(started.id).ended_at is None
    await asyncio.sleep(30)

    assert world.disk.batch(started.id).ended_at is not None
    assert (await other.generations.get(running.id, OWNER)).succeeded
    assert 1 == sum(each.prompt == "slow" for each in world.disk.all(GenerationRecord))


@in_virtual_time
@bounded
async def test_a_drain_leaves_a_batch_that_waits_for_a_joined_item_to_the_next_process():
    world = World()
    one, two = world.process("one"), world.process("two")
    await one.generations.submit(single("slow", wait_seconds=0))
    waiting = submitted(two, batch_of(["slow"]))
    await asyncio.sleep(1)

    await two.supervisor.drain(3)

    with pytest.raises(HandedOver):
        await waiting
    [record] = world.disk.all(BatchRecord)
    assert record.ended_at is None


@in_virtual_time
@bounded
async def test_items_with_a_key_go_on_when_the_caller_of_their_batch_leaves():
    world = World()
    process = world.process("one")
    waiting = submitted(process, batch_of(["a", "B", "c"]))
    await asyncio.sleep(1)

    waiting.cancel()
    await asyncio.sleep(50)

    assert {"a": "succeeded", "B": "canceled", "c": "succeeded"} == {
        each.prompt: each.state for each in world.disk.all(GenerationRecord)
    }


@in_virtual_time
@bounded
async def test_a_caller_who_leaves_and_a_cancelled_batch_leave_the_joined_items():
    world = World()
    process = world.process("one")
    first = submitted(process, batch_of("ab"))
    await asyncio.sleep(1)
    leaving = submitted(process, batch_of(["a", "X"]))
    started = await process.generations.submit(batch_of(["b", "Y"], wait_seconds=0))

    leaving.cancel()
    await process.generations.cancel(started.id, OWNER)
    await asyncio.sleep(50)

    assert (await first).has_ended
    assert {"a": "succeeded", "b": "succeeded", "X": "canceled", "Y": "canceled"} == {
        each.prompt: each.state for each in world.disk.all(GenerationRecord)
    }
    assert started.has_ended


@pytest.mark.parametrize("lead", LEADS)
@in_virtual_time
@bounded
async def test_a_key_of_a_batch_that_is_one_of_an_item_elsewhere_holds_up_no_request(lead):
    """Each wants what the other has, in the other order."""
    world = World()
    one, two = world.process("one"), world.process("two")

    shown = await asyncio.gather(
        later(0.0, one.generations.submit(batch_of("y", key="x"))),
        later(lead, two.generations.submit(batch_of("x", key="y"))),
        return_exceptions=True,
    )

    assert {Batch, IdempotencyConflict} == {*map(type, shown)}
    assert asyncio.get_running_loop().time() < 25
    assert 1 == len(world.provider.sent)


@in_virtual_time
@bounded
async def test_a_refused_batch_leaves_its_new_keys_free_and_those_that_it_knew():
    world = World()
    process = world.process("one")
    process.supervisor._max_queued = 4  # noqa: SLF001 - as the setting
    await process.generations.submit(batch_of("a"))

    with pytest.raises(QueueFull):
        await process.generations.submit(batch_of("abcdefgh", key="batch"))
    await world.ledgers["one"].flush()

    assert ["a"] == [each.key for each in world.disk.all(KeyRecord)]
    assert {0} == {*(await process.generations.submit(batch_of("ab", key="batch"))).joined}


@in_virtual_time
@bounded
async def test_a_batch_that_cannot_be_written_leaves_its_keys_free():
    provider, ledger = MemoryProvider(succeeded(), ends_after=1.0), Immediate()
    inside = core(provider, ledger=ledger)
    ledger.trouble = "The disk is full."

    with pytest.raises(LedgerDown):
        await inside.generations.submit(batch_of("ab", by=ADMIN))
    ledger.trouble = None
    batch = await inside.generations.submit(batch_of("abc", by=ADMIN))

    assert {} == batch.joined
    assert 3 == len(provider.sent)


@in_virtual_time
@bounded
async def test_a_joined_item_that_the_ledger_has_lost_ends_the_wait_as_not_found():
    world = World()
    one, two = world.process("one"), world.process("two")
    running = await one.generations.submit(single("slow", wait_seconds=0))
    waiting = submitted(two, batch_of(["slow", "Own"]))
    await asyncio.sleep(1)

    world.ledgers["one"].trouble = "It has failed over."
    del world.disk.rows[GenerationRecord][running.id,]
    batch = await waiting

    assert ["not_found", None] == [
        each.error and each.error.code for each in (e.record() for e in batch.items)
    ]
    assert batch.id == next(iter(world.disk.all(BatchRecord))).id
    body = batch.result("")
    assert (False, 1, 1) == (body["success"], body["succeeded"], body["failed"])


@pytest.mark.parametrize("own", ["c", "C"])
@in_virtual_time
@bounded
async def test_an_owner_who_repeats_a_batch_after_a_restart_resumes_also_what_it_joined(own):
    rows, provider = MemoryLedger().rows, MemoryProvider(ends_after=10.0)
    before = core(provider, ledger=(killed := MemoryLedger(rows)))
    await before.generations.submit(single("slow", wait_seconds=0))
    started = await before.generations.submit(batch_of(["slow", own], key="k", wait_seconds=0))
    await asyncio.sleep(1)
    killed.trouble = "It was killed."

    after = core(provider, ledger=(ledger := MemoryLedger(rows)))
    after.take_over(
        load_startup_state(
            ledger, after.recovery, lambda _: None, limits=provider.limits, simulated=True, now=time.time()
        )
    )
    batch = await after.generations.submit(batch_of(["slow", own], key="k"))

    assert started.id == batch.id
    assert ["succeeded"] * 2 == [each.state for each in batch.items]
    assert 2 == len(ledger.all(GenerationRecord))
    assert 2 == len(provider.sent)


@in_virtual_time
@bounded
async def test_a_batch_is_answered_under_its_key_although_keys_of_its_items_have_expired_and_were_used_again():
    world = World()
    process = world.process("one")
    first = await process.generations.submit(batch_of("ab", key="k"))
    for record in list(world.disk.all(KeyRecord)):
        if record.key != "k":
            changed = replace(record, work_id="gen_other", fingerprint="other")
            world.disk.rows[KeyRecord][record.caller_id, record.key] = changed
    world.disk.rows[GenerationRecord]["gen_other",] = replace(first.items[0].record(), id="gen_other")

    assert first.id == (await process.generations.submit(batch_of("ab", key="k"))).id
    with pytest.raises(IdempotencyConflict):
        await process.generations.submit(batch_of("ab", key="l"))
