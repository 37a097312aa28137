"""A drain cancels nothing and loses nothing: running work may finish, the rest is left to the next process."""

import asyncio
from io import BytesIO

import pytest

from catalog.references import INLINE, Upload
from errors import ServerTokenRejected, ShuttingDown, UpstreamError
from ledger.records import BatchRecord, GenerationRecord
from providers import TryAgain
from providers.memory import MemoryProvider
from tests.support import virtual_time
from tests.support.callers import PNG
from tests.support.disconnect import (
    LostCreations,
    QuickStore,
    SlowStore,
    a_service,
    cancel,
    held,
    lose_a_creation,
    next_service,
    on_record,
    outcomes,
    start,
)
from tests.support.wiring import (
    ADDRESS,
    TransitionLedger,
    a_picture,
    on_a_loop,
    parts,
    pictures,
    result,
    run,
    run_batch,
    until,
)


def test_draining_leaves_queued_work_in_the_ledger_and_lets_running_work_finish():
    async def scenario():
        fake, ledger = MemoryProvider(ends_after=20), TransitionLedger()
        gate, inside = a_service(fake, ledger=ledger)
        running, queued = start(inside), start(inside)
        await asyncio.sleep(1)
        drain = asyncio.create_task(inside.supervisor.drain(60))
        with pytest.raises(ShuttingDown) as refused:
            await queued
        told_at = asyncio.get_running_loop().time()
        with pytest.raises(ShuttingDown):
            await run(inside, a_picture())
        await drain
        return (await running).state, told_at, refused.value.retry_after, fake, on_record(ledger), held(gate)

    state, told_at, retry_after, fake, rows, left = virtual_time.run(scenario())

    assert ("succeeded", 1.0, 5) == (state, told_at, retry_after)
    assert [("succeeded", "p1", True), ("queued", None, False)] == rows
    assert (1, [], (0, 1, 0)) == (len(fake.sent), fake.cancelled, left)


@pytest.mark.parametrize(
    ("answer_after", "ends"), [(0.25, 3.0), (3.5, 3.5)], ids=["running", "creation on its way"]
)
def test_work_unfinished_at_the_end_of_the_drain_keeps_running_at_replicate_and_stays_in_the_ledger(
    answer_after, ends
):
    async def scenario():
        fake, ledger = MemoryProvider(None, None, answer_after=answer_after), TransitionLedger()
        gate, inside = a_service(fake, concurrent_limit=2, ledger=ledger)
        callers = [start(inside), start(inside)]
        await asyncio.sleep(1)
        await inside.supervisor.drain(2)
        ended_at = asyncio.get_running_loop().time()
        return await outcomes(*callers), ended_at, fake.cancelled, on_record(ledger), held(gate)[0]

    left = [("running", "p1", False), ("running", "p2", False)]
    assert (["shutting_down"] * 2, ends, [], left, 0) == virtual_time.run(scenario())


def test_a_creation_refused_after_the_drain_is_recorded_as_queued():
    async def scenario():
        fake, ledger = MemoryProvider(TryAgain(UpstreamError()), answer_after=5), TransitionLedger()
        _, inside = a_service(fake, ledger=ledger)
        caller = start(inside)
        await asyncio.sleep(1)
        await inside.supervisor.drain(2)
        left = on_record(ledger)
        _, later, (generation,) = next_service(fake, ledger)
        await later.supervisor.wait(generation)
        return await outcomes(caller), left, generation.state, len(fake.sent)

    assert (["shutting_down"], [("queued", None, False)], "succeeded", 2) == virtual_time.run(scenario())


@pytest.mark.parametrize("patience", [0, 2, 30], ids=["at once", "soon", "after the first"])
def test_the_next_process_finishes_drained_work_and_creates_nothing_twice(patience):
    async def scenario():
        fake, ledger = MemoryProvider(ends_after=20, answer_after=5), TransitionLedger()
        _, inside = a_service(fake, concurrent_limit=2, ledger=ledger)
        callers = [start(inside) for _ in range(4)]
        await asyncio.sleep(1)
        await inside.supervisor.drain(patience)
        shown = await outcomes(*callers)
        gate, later, left = next_service(fake, ledger, concurrent_limit=2)
        for each in left:
            await later.supervisor.wait(each)
        return shown, len(left), len(fake.sent), fake.cancelled, on_record(ledger), held(gate)

    shown, left, sent, cancelled, rows, slots = virtual_time.run(scenario())

    finished = 2 if patience == 30 else 0
    assert ["succeeded"] * finished + ["shutting_down"] * (4 - finished) == shown
    assert (4 - finished, 4, []) == (left, sent, cancelled)
    assert [("succeeded", f"p{number}", True) for number in (1, 2, 3, 4)] == rows
    assert (0, 2, 0) == slots


def test_a_drained_batch_keeps_its_ended_items_and_the_next_process_ends_the_rest():
    async def scenario():
        fake, ledger = MemoryProvider(ends_after=20), TransitionLedger()
        _, inside = a_service(fake, ledger=ledger)
        wanted = pictures(["a", "b", "c"])
        caller = asyncio.create_task(run_batch(inside, wanted))
        await asyncio.sleep(1)
        await inside.supervisor.drain(60)
        (row,) = ledger.all(BatchRecord)
        left = await outcomes(caller), row.ended_at, [state for state, *_ in on_record(ledger)]
        _, later, (batch,) = next_service(fake, ledger)
        await later.supervisor.wait(batch)
        (row,) = ledger.all(BatchRecord)
        prompts = [batch.item(index, ADDRESS)["prompt"] for index in range(3)]
        return left, row.ended_at, batch.summary(), prompts, len(fake.sent)

    left, ended_at, summary, prompts, sent = virtual_time.run(scenario())

    assert (["shutting_down"], None, ["succeeded", "queued", "queued"]) == left
    assert (True, 3, ["a", "b", "c"], 3) == (ended_at is not None, summary["succeeded"], prompts, sent)


def test_the_next_process_fetches_outputs_that_the_drain_left():
    async def scenario():
        fake, ledger = MemoryProvider(), TransitionLedger()
        gate, inside = a_service(fake, ledger=ledger, outputs=SlowStore())
        caller = start(inside)
        await asyncio.sleep(5)
        assert 0 == held(gate)[0]
        await inside.supervisor.drain(2)
        left = await outcomes(caller), on_record(ledger)
        _, later, (generation,) = next_service(fake, ledger, outputs=QuickStore())
        await later.supervisor.wait(generation)
        return left, result(generation), len(fake.sent), fake.cancelled

    left, body, sent, cancelled = virtual_time.run(scenario())

    assert (["shutting_down"], [("running", "p1", False)]) == left
    assert (True, [f"{ADDRESS}/files/{body['id']}/{body['id']}.jpg"]) == (body["success"], body["files"])
    assert (1, []) == (sent, cancelled)


def test_a_drain_does_not_wait_for_a_generation_that_is_still_uploading():
    class Uploading(MemoryProvider):
        async def upload(self, caller, upload):  # noqa: ARG002
            await asyncio.get_running_loop().create_future()

    async def scenario():
        _, inside = a_service(fake := Uploading(), ledger=(ledger := TransitionLedger()))
        image = Upload(BytesIO(PNG.ljust(INLINE + 1)))
        caller = asyncio.create_task(run(inside, a_picture(image=image)))
        await asyncio.sleep(1)
        await inside.supervisor.drain(60)
        return await outcomes(caller), asyncio.get_running_loop().time(), fake.sent, on_record(ledger)

    assert (["shutting_down"], 1.0, [], [("queued", None, False)]) == virtual_time.run(scenario())


def test_a_second_drain_with_a_shorter_timeout_loses_no_prediction():
    async def scenario():
        fake, ledger = MemoryProvider(None, answer_after=5), TransitionLedger()
        gate, inside = a_service(fake, ledger=ledger)
        caller = start(inside)
        await asyncio.sleep(1)
        patient = asyncio.create_task(inside.supervisor.drain(1))
        await asyncio.sleep(2)
        await inside.supervisor.drain(0)
        await patient
        ended_at = asyncio.get_running_loop().time()
        return await outcomes(caller), ended_at, fake.cancelled, on_record(ledger), held(gate)[0]

    left = [("running", "p1", False)]
    assert (["shutting_down"], 5.0, [], left, 0) == virtual_time.run(scenario())


@pytest.mark.parametrize(
    ("answer_after", "hangs_up"), [(0.25, 2), (5, 2), (5, 4)], ids=["running", "being created", "drained"]
)
def test_a_disconnect_during_a_drain_still_cancels_the_generation(answer_after, hangs_up):
    """The last disconnect comes while the drain, which ended after 3 seconds, still waits for the creation's
    answer."""

    async def scenario():
        fake, ledger = MemoryProvider(None, answer_after=answer_after), TransitionLedger()
        _, inside = a_service(fake, ledger=ledger)
        caller = start(inside)
        await asyncio.sleep(1)
        drain = asyncio.create_task(inside.supervisor.drain(2))
        await asyncio.sleep(hangs_up - 1)
        await cancel(caller)
        await drain
        return fake.cancelled, on_record(ledger)

    assert (["p1"], [("canceled", "p1", True)]) == virtual_time.run(scenario())


def test_a_disconnect_during_a_drain_still_cancels_the_whole_batch():
    async def scenario():
        fake, ledger = MemoryProvider(None), TransitionLedger()
        _, inside = a_service(fake, ledger=ledger)
        caller = asyncio.create_task(run_batch(inside, pictures(["a", "b", "c"])))
        await asyncio.sleep(1)
        drain = asyncio.create_task(inside.supervisor.drain(60))
        await asyncio.sleep(1)
        await cancel(caller)
        await drain
        _, later, works = next_service(fake, ledger)
        for work in works:
            await later.supervisor.wait(work)
        return fake.cancelled, len(fake.sent), [row.state for row in ledger.all(GenerationRecord)]

    assert (["p1"], 1, ["canceled"] * 3) == virtual_time.run(scenario())


def test_a_search_for_a_lost_creation_that_a_drain_ends_is_left_to_the_next_process():
    async def scenario():
        fake, ledger = LostCreations(), TransitionLedger()
        await lose_a_creation(ledger)
        _, inside, _ = next_service(fake, ledger)
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(1)
        await inside.supervisor.drain(2)
        took, left = asyncio.get_running_loop().time() - began, on_record(ledger)
        _, later, (generation,) = next_service(fake, ledger)
        await later.supervisor.wait(generation)
        return took, left, fake.sent, fake.cancelled, on_record(ledger)

    left, ended = [("submitting", None, False)], [("succeeded", "p1", True)]
    assert (3.0, left, [], [], ended) == virtual_time.run(scenario())


# The same claims, checked at the simulator.


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_creation_counts_as_billed_if_its_token_is_refused_during_the_search(is_cancelled):
    class Refused(MemoryProvider):
        async def recover(self, *_caller_and_model, **_named):
            await asyncio.sleep(5)
            raise ServerTokenRejected

    async def scenario():
        await lose_a_creation(ledger := TransitionLedger())
        _, inside, (generation,) = next_service(Refused(), ledger)
        await asyncio.sleep(1)
        if is_cancelled:
            inside.supervisor.cancel(generation)
        await inside.supervisor.wait(generation)
        return generation.state, generation.cost_usd

    ends = ("canceled" if is_cancelled else "failed", 0.025)
    assert ends == virtual_time.run(scenario())


@on_a_loop
async def test_the_end_of_a_drain_sends_nothing_to_replicate_and_every_prediction_is_in_the_ledger(simulator):
    simulator.inject(on="create", after=2, delay=0.5)
    async with parts(simulator, concurrent_limit=3) as service:
        callers = [asyncio.create_task(service.run("[[hang]]")) for _ in range(5)]
        await until(lambda: simulator.counts().creations_accepted == 3)
        await service.core.supervisor.drain(0.1)
        shown, left = await outcomes(*callers), held(service.gate)

    rows, made = on_record(service.ledger), {each.id for each in simulator.predictions()}
    assert ["running"] * 3 + ["queued"] * 2 == [state for state, *_ in rows]
    assert (made, 3) == ({prediction for _, prediction, _ in rows if prediction is not None}, len(made))
    assert (["shutting_down"] * 5, (0, 3, 0)) == (shown, left)
    assert ({}, 3) == (simulator.counts().finished, simulator.counts().in_flight)
    assert "cancel" not in simulator.counts().requests
