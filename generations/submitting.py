"""Records on the disk that an attempt is about to be sent, so that after a crash the next process knows of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from errors import LedgerDown
from generations.attempts import Attempt
from generations.generation import Generation
from ledger import Ledger

_LEDGER_PAUSE: Final = 1.0
"""Seconds between retries while the ledger cannot be written."""


def attempt_id_of(generation: Generation, attempt: Attempt) -> str:
    """The id of an attempt at its provider."""
    return f"{generation.id}.{generation.attempts.index(attempt) + 1}"


async def persist_submission(
    generation: Generation,
    attempt: Attempt,
    ledger: Ledger,
    persist: Callable[[], Awaitable[None]],
    *,
    clock_skew: Callable[[], float | None] = lambda: None,
) -> None:
    """Record on the disk that this attempt is about to be sent. `persist` waits until its lease has this on disk, and
    `clock_skew` is that of the provider. Retries while the ledger is down if the generation is on the disk already;
    otherwise raises LedgerDown."""
    try:
        while True:
            # A new date for each try: the next process counts places and searches by it.
            attempt.submitted_at, attempt.clock_skew = time.time(), clock_skew()
            generation.transition("submitting", ledger)
            try:
                await persist()
                generation.persisted = True
                return
            except LedgerDown:
                if not generation.persisted:
                    raise
                await asyncio.sleep(_LEDGER_PAUSE)
    except (LedgerDown, asyncio.CancelledError) as error:  # it is not sent, so forget the attempt
        record = attempt.record(generation.id, generation.attempts.index(attempt) + 1)
        ledger.delete(type(record), record.generation_id, record.number)
        generation.attempts.remove(attempt)
        if isinstance(error, asyncio.CancelledError):
            generation.transition("queued", ledger)
        raise
