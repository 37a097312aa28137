"""Requests about work that another process on the same ledger runs: they have the same answers as there."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from auth import Principal
from cluster.letters import Letters
from errors import LedgerDown, NotFound, PayloadTooLarge
from generations.core import Core
from generations.push import MOST_BYTES
from ledger.memory import MemoryLedger
from parsing.limits import parse_limits
from providers.memory import MemoryProvider
from tests.support.post import PostOffice
from tests.support.virtual_time import in_virtual_time, now
from tests.support.wiring import ADDRESS, OTHER_USER, USER, a_picture, core, pictures, submission

OWNER = Principal(USER.id, role="user", caller=USER)
STRANGER = Principal(OTHER_USER.id, role="user", caller=OTHER_USER)


@dataclass
class Process:
    name: str
    core: Core
    ledger: MemoryLedger
    provider: MemoryProvider
    task: "asyncio.Task[None] | None" = None

    async def accept(self, request, by=USER):
        """Accept a request that needs no waiting caller, and wait until its predictions run."""
        work = await self.core.generations.submit(submission(request, by, wait_seconds=0))
        await asyncio.sleep(1)
        return work

    async def describe(self, work_id, principal=OWNER):
        generations = self.core.generations
        return await generations.describe(await generations.get(work_id, principal), ADDRESS)

    async def cancel(self, work_id, principal=OWNER):
        generations = self.core.generations
        return await generations.describe(await generations.cancel(work_id, principal), ADDRESS)


@asynccontextmanager
async def processes():
    """Two processes on one ledger, whose predictions end after 60 s."""
    office, rows = PostOffice(), MemoryLedger().rows
    made = []
    for name in ("here", "there"):
        ledger = MemoryLedger(rows, commit_seconds=0.001, process=name)
        provider = MemoryProvider(ends_after=60.0)
        inside = core(provider, ledger=ledger, letters=Letters(office.post(name)))
        made.append(Process(name, inside, ledger, provider, asyncio.create_task(inside.run_shared())))
    try:
        yield office, *made
    finally:
        for each in made:
            each.task.cancel()
            await asyncio.gather(each.task, return_exceptions=True)
            await each.core.supervisor.drain(0)


async def stop(office, process):
    """Let a process answer no more letters, as one that is frozen."""
    process.task.cancel()
    await asyncio.sleep(0)


def still(body):
    """A body without the seconds so far, which are those of a real clock."""
    return {name: value for name, value in body.items() if name not in {"timing", "actual_seconds"}}


@pytest.mark.parametrize("request_", [a_picture(), pictures(["a", "b", "c"])], ids=["generation", "batch"])
@in_virtual_time
async def test_the_body_of_work_is_the_same_in_every_process(request_):
    async with processes() as (_, here, there):
        work = await there.accept(request_)
        assert still(await there.describe(work.id)) == still(await here.describe(work.id))
        await asyncio.sleep(70)
        assert await there.describe(work.id) == await here.describe(work.id)


@in_virtual_time
async def test_work_that_is_read_in_another_process_no_longer_depends_on_the_caller_that_waits():
    async with processes() as (_, here, there):
        submitted = asyncio.create_task(there.core.generations.submit(submission(a_picture(), USER)))
        await asyncio.sleep(1)
        [record] = there.ledger.unfinished()
        await here.describe(record.id)
        submitted.cancel()
        await asyncio.sleep(70)

        assert "succeeded" == here.ledger.generation(record.id).state


@in_virtual_time
async def test_a_process_that_does_not_answer_delays_a_body_by_two_seconds():
    async with processes() as (office, here, there):
        work = await there.accept(a_picture())
        await stop(office, there)
        began = now()
        body = await here.describe(work.id)

        assert 2.0 == pytest.approx(now() - began, abs=0.1)
        assert ("running", work.id) == (body["status"], body["id"])


@pytest.mark.parametrize("request_", [a_picture(), pictures(["a", "b", "c"])], ids=["generation", "batch"])
@in_virtual_time
async def test_work_is_cancelled_from_another_process_also_at_its_provider(request_):
    async with processes() as (_, here, there):
        work = await there.accept(request_)
        began = now()
        body = await here.cancel(work.id)

        assert 5 > now() - began
        assert body == await there.describe(work.id)
        assert ({*there.provider.made}, True) == ({*there.provider.cancelled}, work.has_ended)
        assert body == await here.cancel(work.id)  # a second time changes nothing


@in_virtual_time
async def test_only_callers_that_may_see_work_cancel_or_read_it_from_another_process():
    async with processes() as (_, here, there):
        work = await there.accept(a_picture())
        for request in (here.cancel, here.describe):
            with pytest.raises(NotFound):
                await request(work.id, STRANGER)
        assert not work.is_cancelled


@in_virtual_time
async def test_a_cancellation_that_its_process_does_not_get_is_on_record_for_the_next_one():
    async with processes() as (office, here, there):
        work = await there.accept(a_picture())
        await stop(office, there)
        began = now()
        body = await here.cancel(work.id)

        assert 12.0 == pytest.approx(now() - began, abs=2.1)
        assert "running" == body["status"]
        there.ledger.mark_dirty(work)  # its process writes it again
        await there.ledger.flush()
        assert here.ledger.generation(work.id).cancelled
        assert not work.is_cancelled


@in_virtual_time
async def test_a_cancellation_that_cannot_be_written_is_refused():
    async with processes() as (_, here, there):
        work = await there.accept(a_picture())
        here.ledger.trouble = "full"
        with pytest.raises(LedgerDown):
            await here.cancel(work.id)
        assert not work.is_cancelled


@in_virtual_time
async def test_a_message_of_replicate_reaches_the_process_that_runs_the_generation():
    async with processes() as (office, here, there):
        work = await there.accept(a_picture())
        push = here.core.push
        elsewhere = await push.elsewhere(work.id)
        secret = await there.provider.webhook_secret(USER)
        [prediction] = there.provider.made
        content = json.dumps(
            {"id": prediction, "status": "succeeded", "output": ["https://a.test/b.png"]}
        ).encode()
        with pytest.raises(PayloadTooLarge):
            await push.pass_on(elsewhere, "1", {}, b"x" * (MOST_BYTES + 1))
        letters = []
        office.lost = letters.append
        headers = {"Webhook-Signature": "wrong", "Authorization": "Basic c2VjcmV0"}
        await push.pass_on(elsewhere, "1", headers, content)
        await asyncio.sleep(1)
        assert not work.has_ended
        assert ["wrong"] == [*json.loads(letters[0].body)["headers"].values()]
        await push.pass_on(elsewhere, "1", {"webhook-signature": secret}, content)
        await asyncio.sleep(1)

        assert work.has_ended
        assert await push.elsewhere(work.id) is None
        assert await there.core.push.elsewhere(work.id) is None
        assert await push.elsewhere("gen_unknown") is None


@in_virtual_time
async def test_a_limit_that_one_process_changes_is_in_force_in_the_other():
    async with processes() as (_, here, there):
        await here.core.configure(parse_limits({"concurrent_limit": 7}))

        assert 7 == there.core.gate.statistics().concurrent_limit
