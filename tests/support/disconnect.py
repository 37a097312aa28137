"""Helpers for the tests of callers that disconnect and of services that stop, with a provider without a
network."""

import asyncio
from collections.abc import Sequence
from typing import Any

from concurrency import Gate
from errors import ServiceError
from files import StoredOutputs
from generations.batch import Work
from generations.core import Core
from generations.generation import Generation
from ledger.records import GenerationRecord
from providers import Created, Prediction
from providers.memory import MemoryProvider
from tests.support.wiring import ADMIN, TransitionLedger, a_picture, core, run, succeeded


def a_service(
    fake: MemoryProvider, *, concurrent_limit: int = 1, ledger: TransitionLedger | None = None, **more: Any
) -> tuple[Gate, Core]:
    gate = Gate(concurrent_limit=concurrent_limit, requests_per_minute=60)
    return gate, core(fake, gate=gate, ledger=ledger, **{"MAX_QUEUED": 100, **more})


def start(inside: Core) -> asyncio.Task[Generation]:
    return asyncio.create_task(run(inside, a_picture()))


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def held(gate: Gate) -> tuple[int, int, int]:
    """The slots and the places in the window that are taken, and the number of waiters."""
    now = gate.statistics()
    return now.current_concurrent, now.current_rate_per_minute, now.waiting


def on_record(ledger: TransitionLedger) -> list[tuple[str, str | None, bool]]:
    """The state of each generation in the ledger, its prediction, and whether it has ended."""
    return [
        (each.state, each.prediction_id, each.ended_at is not None) for each in ledger.all(GenerationRecord)
    ]


async def outcomes(*callers: asyncio.Task[Generation]) -> list[str]:
    """The state of each caller's generation, or the code of the error that the caller got."""
    answers = await asyncio.gather(*callers, return_exceptions=True)
    codes: list[str] = []
    for answer in answers:
        if isinstance(answer, ServiceError):
            codes.append(answer.code)
        else:
            assert isinstance(answer, Generation), answer
            codes.append(answer.state)
    return codes


def next_service(fake: MemoryProvider, ledger: TransitionLedger, **how: Any) -> tuple[Gate, Core, list[Work]]:
    """The next process with this ledger, which has resumed all work in it."""
    gate, inside = a_service(fake, ledger=ledger, **how)
    batches = [(batch, ledger.batch_items(batch.id)) for batch in ledger.unfinished_batches()]
    single = [each for each in ledger.unfinished() if each.batch_id is None]
    restored = inside.recovery.restore(single, batches, ADMIN)
    assert [] == restored.ended
    inside.supervisor.resume(restored.generations, restored.batches)
    return gate, inside, [*restored.generations, *restored.batches]


class SlowStore:
    """A file store that fetches outputs forever. A placeholder is stored at once."""

    async def keep(
        self,
        generation_id: str,  # noqa: ARG002
        outputs: Sequence[str],  # noqa: ARG002
        *,
        any_type: bool = False,  # noqa: ARG002
    ) -> StoredOutputs:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def put(self, generation_id: str, number: int, content: bytes) -> str:  # noqa: ARG002
        return f"{number}.jpg"


class QuickStore(SlowStore):
    """A file store that finishes at once."""

    async def keep(
        self,
        generation_id: str,  # noqa: ARG002
        outputs: Sequence[str],  # noqa: ARG002
        *,
        any_type: bool = False,  # noqa: ARG002
    ) -> StoredOutputs:
        return StoredOutputs(("0.jpg",), None)


class LostCreations(MemoryProvider):
    """A provider that finds a lost creation after half a minute."""

    async def recover(self, *_caller_and_model: Any, reference: str, **_named: Any) -> Created:
        await asyncio.sleep(30)
        found = Prediction("p1", "processing")
        self.start(found, succeeded(), reference=reference)
        return Created(found)


async def lose_a_creation(ledger: TransitionLedger) -> None:
    """Write to the ledger the generation of a process that crashed before the answer to its creation."""
    _, inside = a_service(MemoryProvider(answer_after=10), ledger=ledger)
    caller = start(inside)
    await asyncio.sleep(1)
    (record,) = ledger.all(GenerationRecord)
    await cancel(caller)
    await ledger.flush()
    ledger.rows[GenerationRecord][record.id,] = record  # a written record would stay cancelled
