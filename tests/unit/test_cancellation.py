"""Cancelled generations hold no slot and no place, and leave no prediction running."""

import asyncio
from dataclasses import replace

import pytest

from errors import UpstreamError
from ledger.records import Failure, GenerationRecord
from providers import TryAgain
from providers.memory import MemoryProvider
from tests.support import virtual_time
from tests.support.disconnect import (
    LostCreations,
    SlowStore,
    a_service,
    cancel,
    held,
    lose_a_creation,
    next_service,
    on_record,
    start,
)
from tests.support.wiring import (
    ADMIN,
    TransitionLedger,
    a_picture,
    meanwhile,
    on_a_loop,
    parts,
    pictures,
    result,
    run_batch,
    submission,
    succeeded,
    until,
)


def test_cancelling_a_queued_generation_sends_nothing_and_frees_everything():
    async def scenario():
        fake = MemoryProvider()
        gate, inside = a_service(fake)
        first, second = start(inside), start(inside)
        await asyncio.sleep(1)
        await cancel(second)
        while_running = held(gate)
        await first
        return while_running, held(gate), len(fake.sent), fake.cancelled

    assert ((1, 1, 0), (0, 1, 0), 1, []) == virtual_time.run(scenario())


def test_cancelling_in_the_tick_of_acceptance_sends_nothing():
    async def scenario():
        fake = MemoryProvider()
        gate, inside = a_service(fake)
        task = start(inside)
        await asyncio.sleep(0)
        await cancel(task)
        await asyncio.sleep(10)
        return held(gate), fake.sent

    assert ((0, 0, 0), []) == virtual_time.run(scenario())


def test_cancelling_in_the_tick_of_the_flush_sends_nothing():
    class Disk(TransitionLedger):
        is_written = asyncio.Event()

        async def flush(self):
            await self.is_written.wait()

    async def scenario():
        gate, inside = a_service(fake := MemoryProvider(), ledger=(disk := Disk()))
        generation = inside.supervisor.accept(submission(a_picture(), ADMIN))
        await asyncio.sleep(1)
        disk.is_written.set()
        inside.supervisor.cancel(generation)
        await asyncio.sleep(10)
        return held(gate), fake.sent, inside.runner.ended["canceled"]

    assert ((0, 0, 0), [], 1) == virtual_time.run(scenario())


def test_cancelling_a_pending_creation_awaits_its_answer_and_cancels_its_prediction():
    async def scenario():
        fake = MemoryProvider(None, answer_after=5)
        gate, inside = a_service(fake)
        task = start(inside)
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.sleep(1)
        meanwhile = held(gate)
        await asyncio.wait([task])
        return meanwhile, fake.cancelled, asyncio.get_running_loop().time(), held(gate), task.cancelled()

    assert ((1, 1, 0), ["p1"], 10.0, (0, 1, 0), True) == virtual_time.run(scenario())


def test_cancelling_a_creation_that_is_refused_cancels_no_prediction():
    async def scenario():
        fake = MemoryProvider(TryAgain(UpstreamError()))
        gate, inside = a_service(fake)
        task = start(inside)
        await asyncio.sleep(0.1)
        await cancel(task)
        return len(fake.sent), fake.cancelled, held(gate)

    assert (1, [], (0, 1, 0)) == virtual_time.run(scenario())


def test_cancelling_a_running_generation_cancels_its_prediction():
    async def scenario():
        fake = MemoryProvider(None)
        gate, inside = a_service(fake)
        task = start(inside)
        await asyncio.sleep(10)
        await cancel(task)
        return fake.cancelled, held(gate), inside.runner.ended

    assert (["p1"], (0, 1, 0), {"succeeded": 0, "failed": 0, "canceled": 1}) == virtual_time.run(scenario())


def test_cancelling_between_two_attempts_prevents_the_second():
    async def scenario():
        fake = MemoryProvider(TryAgain(UpstreamError(), wait=30))
        gate, inside = a_service(fake)
        task = start(inside)
        await asyncio.sleep(10)
        await cancel(task)
        await asyncio.sleep(100)
        return len(fake.sent), held(gate)

    assert (1, (0, 0, 0)) == virtual_time.run(scenario())


@pytest.mark.parametrize("moment", [1, 4, 7, 12])
def test_cancelling_repeatedly_still_cancels_the_prediction(moment):
    """The first cancellation comes during the creation (answered at 5 seconds, its cancel at 10) or while the
    prediction runs."""

    async def scenario():
        fake = MemoryProvider(None, answer_after=5)
        gate, inside = a_service(fake)
        task = start(inside)
        await asyncio.sleep(moment)
        for _ in range(40):
            task.cancel()
            await asyncio.sleep(0.5)
        await asyncio.wait([task])
        return fake.cancelled, held(gate)[0]

    assert (["p1"], 0) == virtual_time.run(scenario())


def test_cancelling_does_not_interrupt_the_cancellation_of_a_timed_out_prediction():
    async def scenario():
        fake = MemoryProvider(None, answer_after=5)
        gate, inside = a_service(fake, timeout=10, max_queued=1)
        task = start(inside)
        await asyncio.sleep(17)
        await cancel(task)
        return fake.cancelled, held(gate)[0]

    assert (["p1"], 0) == virtual_time.run(scenario())


async def cancelled_at(moment, at_replicate):
    """A generation with a fallback and a timeout of 10 seconds, cancelled at this time. Returns it long
    afterwards."""
    _, inside = a_service(at_replicate, timeout=10)
    wanted = a_picture(fallback=["qwen-image"])
    generation = inside.supervisor.accept(submission(wanted, ADMIN))
    await asyncio.sleep(moment)
    inside.supervisor.cancel(generation)
    await asyncio.sleep(1000)
    return generation


class Unseen(MemoryProvider):
    """Its predictions cannot be polled."""

    async def wait(self, *arguments, **how):  # noqa: ARG002
        raise UpstreamError


@pytest.mark.parametrize(
    ("fake", "moment"), [(MemoryProvider, 17), (Unseen, 7)], ids=["timed out at 15", "lost sight of at 5"]
)
def test_cancelling_during_the_cancellation_of_a_prediction_prevents_another_attempt(fake, moment):
    """The cancel is answered 5 seconds later."""

    async def scenario():
        at_replicate = fake(None, answer_after=5)
        generation = await cancelled_at(moment, at_replicate)
        return len(at_replicate.sent), at_replicate.cancelled, generation.state

    assert (1, ["p1"], "canceled") == virtual_time.run(scenario())


@pytest.mark.parametrize(
    ("fake", "moment"),
    [(MemoryProvider, 1000), (Unseen, 1000), (MemoryProvider, 6)],
    ids=["late", "lost", "wanted no more"],
)
def test_a_prediction_that_can_be_neither_watched_nor_cancelled_counts_as_billed_and_is_not_replaced(
    fake, moment
):
    class Uncancellable(fake):
        async def cancel(self, caller, prediction):
            await super().cancel(caller, prediction)

    async def scenario():
        at_replicate = Uncancellable(None, answer_after=5)
        generation = await cancelled_at(moment, at_replicate)
        return len(at_replicate.sent), generation.cost_usd

    assert (1, 0.025) == virtual_time.run(scenario())


def test_cancelling_a_batch_cancels_running_items_and_sends_no_more():
    async def scenario():
        fake = MemoryProvider(None, None)
        gate, inside = a_service(fake, concurrent_limit=2)
        batch = asyncio.create_task(run_batch(inside, pictures(["a"] * 20)))
        await asyncio.sleep(5)
        await cancel(batch)
        return len(fake.sent), sorted(fake.cancelled), held(gate)

    assert (2, ["p1", "p2"], (0, 2, 0)) == virtual_time.run(scenario())


@pytest.mark.parametrize("moment", [0, 0.1, 10], ids=["queued", "creation on its way", "running"])
def test_a_cancelled_generation_is_recorded_as_canceled(moment):
    async def scenario():
        _, inside = a_service(MemoryProvider(None), ledger=(ledger := TransitionLedger()))
        task = start(inside)
        await asyncio.sleep(moment)
        await cancel(task)
        (record,) = ledger.all(GenerationRecord)
        return record

    record = virtual_time.run(scenario())
    assert ("canceled", False) == (record.state, record.ended_at is None)
    assert Failure("generation_failed", "The generation was cancelled.", retryable=False) == record.error


class DoneAfterAll(MemoryProvider):
    """Every prediction to be cancelled turns out to be finished."""

    async def cancel(self, caller, prediction):
        await super().cancel(caller, prediction)
        return replace(succeeded(), id=prediction.id)


@pytest.mark.parametrize("answer_after", [0.25, 3.5], ids=["running", "creation on its way"])
def test_a_prediction_that_finished_before_its_cancellation_is_a_success(answer_after):
    async def scenario():
        gate, inside = a_service(DoneAfterAll(answer_after=answer_after, ends_after=100))
        generation = inside.supervisor.accept(submission(a_picture(), ADMIN))
        caller = asyncio.create_task(inside.supervisor.wait(generation))
        await asyncio.sleep(1)
        await cancel(caller)
        return result(generation), held(gate)[0]

    shown, slots = virtual_time.run(scenario())
    assert (True, ["https://replicate.delivery/a.jpg"], "p1", 0.025, 0) == (
        shown["success"],
        shown["output"],
        shown["prediction_id"],
        shown["cost_usd"],
        slots,
    )


def test_a_finished_prediction_is_a_success_even_if_a_disconnect_prevents_the_fetch():
    async def scenario():
        gate, inside = a_service(MemoryProvider(), outputs=SlowStore())
        generation = inside.supervisor.accept(submission(a_picture(), ADMIN))
        caller = asyncio.create_task(inside.supervisor.wait(generation))
        await asyncio.sleep(5)
        assert 0 == held(gate)[0]
        await cancel(caller)
        return result(generation)

    shown = virtual_time.run(scenario())
    assert (True, 1, []) == (shown["success"], shown["count"], shown["files"])
    assert "The generation was cancelled before all outputs were fetched." == shown["files_error"]


@pytest.mark.parametrize("moment", [10, 40], ids=["looked for", "found"])
def test_a_generation_cancelled_during_a_search_cancels_the_prediction_once_found(moment):
    async def scenario():
        fake, ledger = LostCreations(ends_after=600), TransitionLedger()
        await lose_a_creation(ledger)
        gate, inside, (generation,) = next_service(fake, ledger)
        await asyncio.sleep(moment)
        inside.supervisor.cancel(generation)
        await asyncio.wait([inside.supervisor.task(generation)])
        return fake.sent, fake.cancelled, on_record(ledger), held(gate)[0]

    assert ([], ["p1"], [("canceled", "p1", True)], 0) == virtual_time.run(scenario())


# The same claims, checked at the simulator.


@on_a_loop
async def test_replicate_gets_no_request_for_a_generation_cancelled_while_queued(simulator):
    async with parts(simulator, concurrent_limit=1) as service:
        running = asyncio.create_task(service.run("[[hang]] the first"))
        await until(lambda: service.gate.statistics().current_concurrent == 1)
        queued = asyncio.create_task(service.run("the second"))
        await until(lambda: service.gate.statistics().waiting == 1)
        await cancel(queued)
        await meanwhile(simulator.finish, running)
        left = held(service.gate)

    assert ["[[hang]] the first"] == [made.input["prompt"] for made in simulator.predictions()]
    assert (0, 1, 0) == left


@pytest.mark.parametrize("fault", [{"delay": 0.3}, {"reset": "after"}, {"hang": 3600}], ids=str)
@on_a_loop
async def test_cancelling_a_pending_creation_sends_a_cancel_to_replicate(simulator, fault):
    simulator.inject(on="create", **fault)
    async with parts(simulator, create_timeout=2) as service:
        task = asyncio.create_task(service.run("[[hang]]"))
        await until(lambda: simulator.counts().creations_accepted == 1)
        await cancel(task)
        left = held(service.gate)

    assert ({"canceled": 1}, (0, 1, 0)) == (simulator.counts().finished, left)
