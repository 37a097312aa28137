"""The keys in the memory of each process: how soon changes hold, what they cost, and what happens to work."""

import asyncio
import time

import pytest

from auth import Caller, credentials
from errors import LedgerDown
from generations.archive import Archive
from generations.audit import Actor
from generations.key_directory import FRESH, KeyDirectory
from generations.keys import NamedKeys
from generations.running import RunningWork
from ledger.access_records import ApiKeyRecord, AuditRecord
from ledger.memory import MemoryLedger
from providers.memory import MemoryProvider
from tests.support.callers import SERVER_TOKEN
from tests.support.outbox_wiring import secrets
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import AtOnce, a_picture, core, submission

ACTOR = Actor("admin", "admin", "req_1")
BOUND = 2.0
"""Seconds within which a change holds in every process."""


class CountingLedger(MemoryLedger):
    """Counts the reads of keys, each of which takes `seconds`."""

    reads = 0

    def changed_api_keys(self, revision):
        self.reads += 1
        if self.trouble is not None:
            raise LedgerDown(self.trouble)
        return super().changed_api_keys(revision)


class Slow(AtOnce):
    """A thread that needs some time for each read."""

    def __init__(self, seconds):
        self.seconds = seconds

    async def run(self, function):
        found = function()
        await asyncio.sleep(self.seconds)
        return found


class NoWork:
    """A supervisor without work."""

    running = RunningWork()


class Process:
    """One process: its directory and the service that changes keys, which hashes no text."""

    def __init__(self, name, rows=None, *, read_seconds=0.0):
        self.ledger = CountingLedger(rows, process=name, commit_seconds=0.001)
        threads = Slow(read_seconds) if read_seconds else AtOnce()
        archive = Archive(ledger=self.ledger, queries=self.ledger, threads=threads)
        now = asyncio.get_running_loop().time
        self.directory = KeyDirectory(archive=archive, ledger=self.ledger, supervisor=NoWork(), now=now)
        self.keys = NamedKeys(
            ledger=self.ledger, archive=archive, directory=self.directory, budgets=None, digest=str,
            webhook_secrets=secrets(None), now=now,
        )  # fmt: skip
        self.directory.load(self.ledger)
        self.task = asyncio.create_task(self.directory.run())

    async def accepts(self, text):
        """Whether a request with this key is accepted now."""
        if not self.directory.is_fresh:
            await self.directory.ensure_fresh()
        return self.directory.find(text) is not None


def processes(count=3, **more):
    first = Process("p0", **more)
    return [first, *(Process(f"p{number}", first.ledger.rows, **more) for number in range(1, count))]


async def fill(ledger, count):
    """Write this many keys."""
    for number in range(1, count + 1):
        key = ApiKeyRecord(
            id=f"key_{number}", name="a", role="caller", digest=f"d{number}", prefix="rcg_", created_at=0.0,
            revision=number,
        )  # fmt: skip
        ledger.upsert(key)
    await ledger.flush()


@pytest.mark.parametrize("after", [0.0, 0.3, 0.999, 1.0, 1.7, 1.999])
@in_virtual_time
async def test_a_deleted_key_is_refused_within_two_seconds_in_every_process(after):
    one, *others = processes()
    key, text = await one.keys.create({"name": "shop", "role": "caller"}, ACTOR)
    await asyncio.sleep(4 + after)
    assert [True] * 3 == [await each.accepts(text) for each in (one, *others)]

    await one.keys.delete(key.id, ACTOR)

    assert not await one.accepts(text)
    await asyncio.sleep(BOUND)
    assert [False] * 2 == [await each.accepts(text) for each in others]


@in_virtual_time
async def test_a_new_key_is_known_at_once_where_it_was_made_and_within_two_seconds_elsewhere():
    one, other = processes(2)
    await asyncio.sleep(0.5)

    _, text = await one.keys.create({"name": "shop", "role": "caller"}, ACTOR)

    assert await one.accepts(text)
    await asyncio.sleep(BOUND)
    assert await other.accepts(text)


@in_virtual_time
async def test_a_process_that_stood_still_reads_before_it_accepts_a_key():
    one, other = processes(2)
    key, text = await one.keys.create({"name": "shop", "role": "caller"}, ACTOR)
    await asyncio.sleep(3)
    assert await other.accepts(text)
    other.task.cancel()  # its loop stands still

    await one.keys.delete(key.id, ACTOR)
    await asyncio.sleep(5)

    assert not await other.accepts(text)


@in_virtual_time
async def test_a_read_that_began_before_a_deletion_does_not_count_for_later_requests():
    one, other = processes(2, read_seconds=1.5)
    key, text = await one.keys.create({"name": "shop", "role": "caller"}, ACTOR)
    await asyncio.sleep(5)
    for _ in range(40):
        await asyncio.sleep(0.1)
        assert await other.accepts(text)
    deletion = asyncio.create_task(one.keys.delete(key.id, ACTOR))
    while one.ledger.api_key(key.id).deleted_at is None:  # noqa: ASYNC110 - the ledger has no event for it
        await asyncio.sleep(0.001)
    await asyncio.sleep(BOUND)

    assert not await other.accepts(text)
    await deletion


@in_virtual_time
async def test_keys_cost_one_read_each_two_seconds_whatever_the_number_of_keys_and_requests():
    [process] = processes(1)
    await fill(process.ledger, 10_000)
    await process.directory.refresh()
    await asyncio.sleep(1)
    before = process.ledger.reads

    for second in range(600):
        for number in range(20):
            assert await process.accepts(f"d{1 + (second * 20 + number) % 10_000}")
            await asyncio.sleep(0.05)

    assert process.ledger.reads - before <= 600 / FRESH + 1


@in_virtual_time
async def test_requests_that_come_together_share_one_read():
    [process] = processes(1)
    _, text = await process.keys.create({"name": "shop", "role": "caller"}, ACTOR)
    process.task.cancel()
    await asyncio.sleep(10)
    before = process.ledger.reads

    assert [True] * 50 == await asyncio.gather(*(process.accepts(text) for _ in range(50)))

    assert 1 == process.ledger.reads - before


@in_virtual_time
async def test_a_request_is_refused_while_the_ledger_cannot_be_read_and_accepted_after():
    [process] = processes(1)
    _, text = await process.keys.create({"name": "shop", "role": "caller"}, ACTOR)
    process.ledger.trouble = "The disk is gone."
    await asyncio.sleep(1)
    assert await process.accepts(text)  # the last read still counts
    await asyncio.sleep(2)

    with pytest.raises(LedgerDown, match="disk is gone"):
        await process.accepts(text)

    process.ledger.trouble = None
    assert await process.accepts(text)


@in_virtual_time
async def test_a_request_does_not_wait_for_ever_for_a_ledger_that_does_not_answer():
    [process] = processes(1, read_seconds=1000.0)
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(3)

    with pytest.raises(LedgerDown, match="does not answer"):
        await process.accepts("text")

    assert 8 == asyncio.get_running_loop().time() - began


@in_virtual_time
async def test_all_keys_are_read_again_after_the_server_may_have_lost_the_last_changes():
    one, other = processes(2)
    kept, text = await one.keys.create({"name": "kept", "role": "caller"}, ACTOR)
    before = dict(one.ledger.rows[ApiKeyRecord])
    _, lost = await one.keys.create({"name": "lost", "role": "caller"}, ACTOR)
    await asyncio.sleep(3)
    assert [True, True] == [await each.accepts(lost) for each in (one, other)]

    for each in (one, other):
        each.ledger.trouble = "PostgreSQL has failed over."
    await asyncio.sleep(5)
    one.ledger.rows[ApiKeyRecord].clear()
    one.ledger.rows[ApiKeyRecord].update(before)
    for each in (one, other):
        each.ledger.trouble = None
    await one.keys.rotate(kept.id, 0.0, ACTOR)  # it gets the revision of the lost one
    await asyncio.sleep(BOUND)

    assert [False] * 4 == [await each.accepts(old) for each in (one, other) for old in (lost, text)]
    assert one.directory.with_id(kept.id) == other.directory.with_id(kept.id) is not None


@in_virtual_time
async def test_a_key_ends_at_its_time_and_an_old_text_at_the_end_of_its_grace():
    [process] = processes(1)
    now = asyncio.get_running_loop().time
    _, text = await process.keys.create({"name": "shop", "role": "caller", "expires_at": now() + 10}, ACTOR)
    key, old = await process.keys.create({"name": "shop", "role": "caller"}, ACTOR)
    _, new = await process.keys.rotate(key.id, 5.0, ACTOR)
    rotated_at = now()

    await asyncio.sleep(rotated_at + 4.99 - now())
    assert [True, True, True] == [await process.accepts(each) for each in (text, old, new)]
    await asyncio.sleep(0.02)
    assert [True, False, True] == [await process.accepts(each) for each in (text, old, new)]
    await asyncio.sleep(5)
    assert [False, False, True] == [await process.accepts(each) for each in (text, old, new)]


@in_virtual_time
async def test_changes_in_all_processes_at_once_are_all_made():
    several = processes()
    made = await asyncio.gather(
        *(each.keys.create({"name": "a", "role": "caller"}, ACTOR) for each in several for _ in range(5))
    )

    await asyncio.gather(
        *(
            several[number % 3].keys.change(key.id, {field: number + 1}, ACTOR)
            for number, (key, _) in enumerate(made)
            for field in ("max_concurrent", "max_queued")
        )
    )
    await asyncio.sleep(BOUND)

    for process in several:
        found = [process.directory.with_id(key.id) for key, _ in made]
        assert [(number + 1, number + 1) for number in range(15)] == [
            (each.max_concurrent, each.max_queued) for each in found
        ]
    revisions = sorted(each.revision for each in several[0].ledger.all(ApiKeyRecord))
    assert 45 == several[0].ledger.last_key_revision()
    assert len({*revisions}) == 15
    assert 45 == len(several[0].ledger.all(AuditRecord))


@in_virtual_time
async def test_listeners_get_each_change_once_and_deleted_keys_as_deleted():
    one, other = processes(2)
    seen = []
    other.directory.on_change(lambda changed: seen.extend((each.name, each.deleted_at) for each in changed))
    key, _ = await one.keys.create({"name": "a", "role": "caller"}, ACTOR)
    await asyncio.sleep(BOUND + 0.1)
    await one.keys.change(key.id, {"name": "b"}, ACTOR)
    await asyncio.sleep(BOUND + 0.1)
    await one.keys.delete(key.id, ACTOR)
    await asyncio.sleep(BOUND + 0.1)

    assert [("a", None), ("b", None)] == seen[:2]
    assert ["b"] == [name for name, deleted_at in seen if deleted_at is not None]
    assert 3 == len(seen)


@pytest.mark.parametrize("end", ["delete", "expire"])
@in_virtual_time
async def test_waiting_work_of_a_key_that_ends_is_cancelled_and_running_work_goes_on(end):
    ledger = MemoryLedger()
    provider = MemoryProvider(ends_after=100.0)
    service = core(provider, ledger=ledger, REPLICATE_CONCURRENT_LIMIT=1)
    service.gate.configure(concurrent_limit=1)
    task = asyncio.create_task(service.key_directory.run())
    fields = {"name": "shop", "role": "caller"} | (
        {"expires_at": time.time() - 1.0} if end == "expire" else {}
    )
    key, _ = await service.keys.create(fields, ACTOR)
    caller = Caller("key", key.id, credentials(replicate=SERVER_TOKEN), key=key)
    running, waiting = [
        await service.generations.submit(submission(a_picture(f"picture {number}"), caller, wait_seconds=0))
        for number in range(2)
    ]
    await asyncio.sleep(0.01)
    assert ["queued"] == [each.state for each in (running, waiting) if each.state == "queued"]

    if end == "delete":
        await service.keys.delete(key.id, ACTOR)
    await asyncio.sleep(BOUND + 2)
    await asyncio.sleep(3600)
    task.cancel()

    assert ("succeeded", "canceled") == (running.state, waiting.state)
