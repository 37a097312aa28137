"""Generations before a fake Replicate, callers who leave and services that stop: what the tests of both share."""

import asyncio

from concurrency import Gate
from files import Kept
from ledger.records import GenerationRecord
from providers import Created, Prediction
from providers.memory import MemoryProvider
from tests.support.wiring import ADMIN, Notes, a_picture, core, run, succeeded


def a_service(fake: MemoryProvider, *, concurrent_limit: int = 1, ledger: Notes | None = None, **more):
    gate = Gate(concurrent_limit=concurrent_limit, requests_per_minute=60)
    return gate, core(fake, gate=gate, ledger=ledger, **{"MAX_QUEUED": 100, **more})


def start(inside) -> "asyncio.Task":
    return asyncio.create_task(run(inside, a_picture()))


async def cancel(*tasks: "asyncio.Task") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def held(gate: Gate) -> tuple[int, int, int]:
    """Slots taken, places taken, and how many wait."""
    now = gate.statistics()
    return now.current_concurrent, now.current_rate_per_minute, now.waiting


def on_record(ledger: Notes) -> list[tuple[str, str | None, bool]]:
    """What the next process finds of each generation: its state, its prediction, and whether it has ended."""
    return [
        (each.state, each.prediction_id, each.ended_at is not None) for each in ledger.all(GenerationRecord)
    ]


async def heard(*callers: "asyncio.Task") -> list[str]:
    """What each caller hears of their generation: how it ended, or what they were refused with."""
    answers = await asyncio.gather(*callers, return_exceptions=True)
    return [getattr(answer, "state", None) or answer.code for answer in answers]


def next_service(fake: MemoryProvider, ledger: Notes, **how):
    """The process after the one that left this ledger, which goes on with all of it."""
    gate, inside = a_service(fake, ledger=ledger, **how)
    batches = [(batch, ledger.batch_items(batch.id)) for batch in ledger.unfinished_batches()]
    single = [each for each in ledger.unfinished() if each.batch_id is None]
    restored = inside.recovery.restore(single, batches, ADMIN)
    assert [] == restored.ended
    inside.supervisor.resume(restored.generations, restored.batches)
    return gate, inside, [*restored.generations, *restored.batches]


class Slow:
    """A keeper that never comes to an end."""

    async def keep(self, generation_id, outputs):  # noqa: ARG002
        await asyncio.get_running_loop().create_future()

    async def put(self, generation_id, number, content): ...


class Quick(Slow):
    """A keeper that has everything at once."""

    async def keep(self, generation_id, outputs):  # noqa: ARG002
        return Kept(("0.jpg",), None)


class Lost(MemoryProvider):
    """What it is asked to create while a process dies is found half a minute later."""

    async def recover(self, *_caller_and_model, reference, **_named):
        await asyncio.sleep(30)
        found = Prediction("p1", "processing")
        self.start(found, succeeded(), reference=reference)
        return Created(found)


async def lose_a_creation(ledger: Notes) -> None:
    """Leave what a process leaves that dies just before it hears of its creation."""
    _, inside = a_service(MemoryProvider(answer_after=10), ledger=ledger)
    caller = start(inside)
    await asyncio.sleep(1)
    (record,) = ledger.all(GenerationRecord)
    await cancel(caller)
    ledger.upsert(record)
    await ledger.flush()
