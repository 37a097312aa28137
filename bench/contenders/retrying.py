"""`async_run` behind a semaphore, tried again whatever went wrong: what one writes after the first bad day.

Up to six more times, after pauses that double from one second to 32, which together outlast a minute's window.
Whether a creation whose answer was lost was made is not asked: it is made again, and paid for again.
"""

import asyncio

from bench.contenders.async_run import behind_a_semaphore, run_of
from bench.contenders.task import Picture, Task, carry_out

_PAUSES = (1, 2, 4, 8, 16, 32)


async def _make(task: Task) -> list[Picture | BaseException]:
    once = run_of()

    async def picture(prompt: str) -> Picture:
        for pause in _PAUSES:
            try:
                return await once(prompt)
            except Exception:  # whatever it was
                await asyncio.sleep(pause)
        return await once(prompt)

    return await behind_a_semaphore(task, picture)


if __name__ == "__main__":
    carry_out(lambda task: asyncio.run(_make(task)))
