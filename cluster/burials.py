"""Takes over the work of processes that have died, while this one runs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

from errors import LedgerDown

log = structlog.get_logger("cluster")


async def run(
    bury: Callable[[], Awaitable[bool]],
    resume: Callable[[], Awaitable[object]],
    *,
    pause: float,
    is_due: bool = False,
) -> NoReturn:
    """Call `bury` each `pause` seconds, and `resume` after it has returned True, until that has succeeded; also at
    first, if that `is_due`. Runs until it is cancelled. `bury` that fails may have taken work over, so that `resume` is
    called later, too."""
    while True:
        await asyncio.sleep(pause)
        try:
            is_due = await bury() or is_due
            if is_due:
                await resume()
                is_due = False
        except LedgerDown:
            is_due = True
        except Exception:
            log.exception("takeover_failed")
            is_due = True
