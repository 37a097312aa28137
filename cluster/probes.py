"""Finds out whether the upstream answers while the outcome of a creation is unknown and no other request is sent.

The creation of a dead process without an answer stops others until the upstream has answered a later request. If it is
of a user, no process searches for it before the user returns. Without running predictions, which are polled, and
without searches, no request would be sent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import structlog

from cluster import AnyGate

PAUSE: Final = 3.0
"""Seconds between two looks, and thus between two requests."""

log = structlog.get_logger("gate")


async def run(gate: AnyGate, ask: Callable[[], Awaitable[object]]) -> NoReturn:
    """While creations are in doubt, await `ask` each few seconds, until this is cancelled. It makes a request to the
    upstream that creates no prediction, if work waits here."""
    while True:
        await asyncio.sleep(PAUSE)
        if gate.statistics().stall.in_doubt:
            try:
                await ask()
            except Exception:  # this task must go on
                log.exception("probe_failed")
