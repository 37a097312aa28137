"""Whoever stops waiting costs nothing: no slot, no place, no prediction that runs on. And the same for a
service that shuts down."""

import asyncio
from dataclasses import replace
from io import BytesIO

import pytest
import virtual_time
from parts import ADMIN, UNPLANNED, VIEW, Fake, a_picture, on_a_loop, parts, pictures, succeeded, until

from concurrency import Gate
from errors import ShuttingDown, UpstreamError
from generation import Generations
from providers import TryAgain
from references import INLINE, Upload


def a_service(fake: Fake, *, concurrent_limit: int = 1):
    gate = Gate(concurrent_limit=concurrent_limit, requests_per_minute=60)
    return gate, Generations(provider=fake, gate=gate, timeout=600, max_queued=100)


def start(generations: Generations) -> "asyncio.Task":
    return asyncio.create_task(generations.run(a_picture(), caller=ADMIN, request_id="req"))


async def cancel(*tasks: "asyncio.Task") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def held(gate: Gate) -> tuple[int, int, int]:
    """Slots taken, places taken, and how many wait."""
    now = gate.statistics()
    return now.current_concurrent, now.current_rate_per_minute, now.waiting


def test_cancelled_while_queued_it_leaves_no_trace():
    async def story():
        fake = Fake()
        gate, generations = a_service(fake)
        first, second = start(generations), start(generations)
        await asyncio.sleep(1)
        await cancel(second)
        while_running = held(gate)
        await first
        return while_running, held(gate), len(fake.sent), fake.cancelled

    assert ((1, 1, 0), (0, 1, 0), 1, []) == virtual_time.run(story())


def test_cancelled_in_the_tick_it_was_asked_for_nothing_is_sent():
    async def story():
        fake = Fake()
        gate, generations = a_service(fake)
        task = start(generations)
        await asyncio.sleep(0)
        await cancel(task)
        await asyncio.sleep(10)
        return held(gate), fake.sent

    assert ((0, 0, 0), []) == virtual_time.run(story())


def test_cancelled_while_its_creation_is_on_its_way_the_answer_is_awaited_and_the_prediction_cancelled():
    async def story():
        fake = Fake(None, answer_after=5)
        gate, generations = a_service(fake)
        task = start(generations)
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.sleep(1)
        meanwhile = held(gate)
        await asyncio.wait([task])
        return meanwhile, fake.cancelled, asyncio.get_running_loop().time(), held(gate), task.cancelled()

    assert ((1, 1, 0), ["p1"], 10.0, (0, 1, 0), True) == virtual_time.run(story())


def test_cancelled_while_its_creation_is_refused_there_is_nothing_to_cancel():
    async def story():
        fake = Fake(TryAgain(UpstreamError()))
        gate, generations = a_service(fake)
        task = start(generations)
        await asyncio.sleep(0.1)
        await cancel(task)
        return len(fake.sent), fake.cancelled, held(gate)

    assert (1, [], (0, 1, 0)) == virtual_time.run(story())


def test_cancelled_while_running_the_prediction_is_cancelled():
    async def story():
        fake = Fake(None)
        gate, generations = a_service(fake)
        task = start(generations)
        await asyncio.sleep(10)
        await cancel(task)
        return fake.cancelled, held(gate), generations.tally.as_json()

    assert (["p1"], (0, 1, 0), {"succeeded": 0, "failed": 0, "canceled": 1}) == virtual_time.run(story())


def test_cancelled_between_two_attempts_no_other_is_made():
    async def story():
        fake = Fake(TryAgain(UpstreamError(), wait=30))
        gate, generations = a_service(fake)
        task = start(generations)
        await asyncio.sleep(10)
        await cancel(task)
        await asyncio.sleep(100)
        return len(fake.sent), held(gate)

    assert (1, (0, 0, 0)) == virtual_time.run(story())


@pytest.mark.parametrize("moment", [1, 4, 7, 12])
def test_cancelled_again_and_again_the_prediction_is_still_cancelled(moment):
    """First while the creation is on its way, its answer at 5 seconds and the cancel's at 10, or while it runs."""

    async def story():
        fake = Fake(None, answer_after=5)
        gate, generations = a_service(fake)
        task = start(generations)
        await asyncio.sleep(moment)
        for _ in range(40):
            task.cancel()
            await asyncio.sleep(0.5)
        await asyncio.wait([task])
        return fake.cancelled, held(gate)[0]

    assert (["p1"], 0) == virtual_time.run(story())


def test_cancelled_while_a_timed_out_prediction_is_being_cancelled_that_is_seen_through():
    async def story():
        fake = Fake(None, answer_after=5)
        gate = Gate(concurrent_limit=1, requests_per_minute=60)
        generations = Generations(provider=fake, gate=gate, timeout=10, max_queued=1)
        task = start(generations)
        await asyncio.sleep(17)
        await cancel(task)
        return fake.cancelled, held(gate)[0]

    assert (["p1"], 0) == virtual_time.run(story())


def test_a_cancelled_batch_cancels_what_runs_and_sends_nothing_more():
    async def story():
        fake = Fake(None, None)
        gate, generations = a_service(fake, concurrent_limit=2)
        batch = asyncio.create_task(
            generations.run_batch(pictures(["a"] * 20), plan=UNPLANNED, caller=ADMIN, request_id="req")
        )
        await asyncio.sleep(5)
        await cancel(batch)
        return len(fake.sent), sorted(fake.cancelled), held(gate)

    assert (2, ["p1", "p2"], (0, 2, 0)) == virtual_time.run(story())


# Draining.


def test_draining_refuses_what_is_queued_and_lets_what_runs_finish():
    async def story():
        fake = Fake(ends_after=20)
        gate, generations = a_service(fake)
        running, queued = start(generations), start(generations)
        await asyncio.sleep(1)
        await generations.drain(60)
        with pytest.raises(ShuttingDown):
            await generations.run(a_picture(), caller=ADMIN, request_id="req")
        ended = [await running, await queued]
        ends = [(each.state, each.error and each.error.code, each.queued) for each in ended]
        return ends, fake, held(gate)

    ends, fake, left = virtual_time.run(story())

    assert [("succeeded", None, 0.0), ("canceled", "shutting_down", 1.0)] == ends
    assert (1, [], (0, 1, 0)) == (len(fake.sent), fake.cancelled, left)


@pytest.mark.parametrize("answer_after", [0.25, 3.5], ids=["running", "creation on its way"])
def test_what_has_not_finished_when_the_drain_ends_is_cancelled(answer_after):
    async def story():
        fake = Fake(None, None, answer_after=answer_after)
        gate, generations = a_service(fake, concurrent_limit=2)
        tasks = [start(generations), start(generations)]
        await asyncio.sleep(1)
        await generations.drain(2)
        ended = [await task for task in tasks]
        return [each.error.code for each in ended], sorted(fake.cancelled), held(gate)[0]

    assert (["shutting_down"] * 2, ["p1", "p2"], 0) == virtual_time.run(story())


@pytest.mark.parametrize("answer_after", [0.25, 3.5], ids=["running", "creation on its way"])
def test_what_turns_out_done_when_it_is_to_be_cancelled_is_a_success_since_it_is_paid_for(answer_after):
    class DoneAfterAll(Fake):
        async def cancel(self, caller, prediction):
            await super().cancel(caller, prediction)
            return replace(succeeded(), id=prediction.id)

    async def story():
        gate, generations = a_service(DoneAfterAll(succeeded(), answer_after=answer_after, ends_after=100))
        task = start(generations)
        await asyncio.sleep(1)
        await generations.drain(2)
        return (await task).result(VIEW), held(gate)[0]

    told, slots = virtual_time.run(story())
    assert (True, ["https://replicate.delivery/a.jpg"], "p1", 0.025, 0) == (
        told["success"],
        told["output"],
        told["prediction_id"],
        told["cost_usd"],
        slots,
    )


class Slow:
    """A keeper that never comes to an end."""

    async def keep(self, generation_id, outputs):  # noqa: ARG002
        await asyncio.get_running_loop().create_future()

    async def put(self, generation_id, number, content): ...


def test_what_is_made_is_a_success_though_a_drain_leaves_no_time_to_fetch_it():
    async def story():
        gate = Gate(concurrent_limit=1, requests_per_minute=60)
        generations = Generations(provider=Fake(), gate=gate, keeper=Slow(), timeout=600, max_queued=100)
        task = start(generations)
        await asyncio.sleep(5)
        assert 0 == held(gate)[0]
        await generations.drain(2)
        return (await task).result(VIEW)

    told = virtual_time.run(story())
    assert (True, 1, []) == (told["success"], told["count"], told["files"])
    assert "The service stopped before everything was fetched." == told["files_error"]


def test_a_drain_refuses_at_once_whoever_is_still_uploading():
    class Uploading(Fake):
        async def upload(self, caller, upload):  # noqa: ARG002
            await asyncio.get_running_loop().create_future()

    async def story():
        _, generations = a_service(fake := Uploading())
        image = Upload(BytesIO(b"\x89PNG\r\n\x1a\n".ljust(INLINE + 1)))
        task = asyncio.create_task(generations.run(a_picture(image=image), caller=ADMIN, request_id="req"))
        await asyncio.sleep(1)
        await generations.drain(60)
        return (await task).error.code, asyncio.get_running_loop().time(), fake.sent

    assert ("shutting_down", 1.0, []) == virtual_time.run(story())


def test_a_second_drain_with_less_patience_loses_no_prediction():
    async def story():
        fake = Fake(None, answer_after=5)
        gate, generations = a_service(fake)
        task = start(generations)
        await asyncio.sleep(1)
        patient = asyncio.create_task(generations.drain(1))
        await asyncio.sleep(2)
        await generations.drain(0)
        await patient
        return (await task).error.code, fake.cancelled, held(gate)[0]

    assert ("shutting_down", ["p1"], 0) == virtual_time.run(story())


# The same at Replicate's end.


@on_a_loop
async def test_replicate_never_hears_of_what_was_cancelled_while_queued(simulator):
    async with parts(simulator, concurrent_limit=1) as service:
        running = asyncio.create_task(service.run("[[slow=0.5]] the first"))
        await until(lambda: service.gate.statistics().current_concurrent == 1)
        queued = asyncio.create_task(service.run("the second"))
        await until(lambda: service.gate.statistics().waiting == 1)
        await cancel(queued)
        await running
        left = held(service.gate)

    assert ["[[slow=0.5]] the first"] == [made.input["prompt"] for made in simulator.predictions()]
    assert (0, 1, 0) == left


@pytest.mark.parametrize("fault", [{"delay": 0.3}, {"reset": "after"}, {"hang": 3600}], ids=str)
@on_a_loop
async def test_replicate_is_told_to_cancel_what_was_just_being_created(simulator, fault):
    simulator.order(on="create", **fault)
    async with parts(simulator, create_timeout=0.5) as service:
        task = asyncio.create_task(service.run("[[hang]]"))
        await until(lambda: simulator.counts().creations_accepted == 1)
        await cancel(task)
        left = held(service.gate)

    assert ({"canceled": 1}, (0, 1, 0)) == (simulator.counts().finished, left)


@on_a_loop
async def test_replicate_is_told_to_cancel_what_runs_and_what_is_created_when_the_drain_ends(simulator):
    simulator.order(on="create", after=2, delay=0.5)
    async with parts(simulator, concurrent_limit=3) as service:
        tasks = [asyncio.create_task(service.run("[[hang]]")) for _ in range(5)]
        await until(lambda: simulator.counts().creations_accepted == 3)
        await service.generations.drain(0.1)
        ended = [await task for task in tasks]
        left = held(service.gate)

    assert [("canceled", "shutting_down")] * 5 == [(each.state, each.error.code) for each in ended]
    assert ({"canceled": 3}, (0, 3, 0)) == (simulator.counts().finished, left)
