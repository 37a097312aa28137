"""`async_run` behind a semaphore, with retries after every error.

Up to six retries, after pauses that double from one second to 32, which together are longer than a minute's window. If
the response to a creation is lost, the picture is made again, and paid for again.
"""

import asyncio

from bench.contenders.async_run import behind_a_semaphore, run_of
from bench.contenders.task import Picture, Task, run_task

_PAUSES = (1, 2, 4, 8, 16, 32)


async def _make(task: Task) -> list[Picture | BaseException]:
    once = run_of()

    async def picture(prompt: str) -> Picture:
        for pause in _PAUSES:
            try:
                return await once(prompt)
            except Exception:  # any error
                await asyncio.sleep(pause)
        return await once(prompt)

    return await behind_a_semaphore(task, picture)


if __name__ == "__main__":
    run_task(lambda task: asyncio.run(_make(task)))
