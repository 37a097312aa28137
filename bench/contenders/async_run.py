"""The `replicate` client's own `async_run` behind a semaphore, the most obvious solution.

It asks Replicate to hold each creation open until the prediction has ended (`Prefer: wait`). So a picture costs one
request, unless it takes longer than the minute of the hold. There is no window over creations: a refused creation is
lost, and so is a prediction whose response is lost.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import replicate

from bench.contenders.task import MODEL, Picture, Task, run_task

Make = Callable[[str], Awaitable[Picture]]


def run_of(**options: Any) -> Make:
    """A function that makes a picture of a prompt by `async_run` with `options`."""
    client = replicate.Client()

    async def picture(prompt: str) -> Picture:
        output = await client.async_run(MODEL, input={"prompt": prompt}, **options)
        return Picture(str(output[0]), time.time())

    return picture


async def behind_a_semaphore(task: Task, make: Make) -> list[Picture | BaseException]:
    """The result of `make` for each prompt, with at most `task.slots` calls at once."""
    slots = asyncio.Semaphore(task.slots)

    async def picture(prompt: str) -> Picture:
        async with slots:
            return await make(prompt)

    return await asyncio.gather(*map(picture, task.prompts), return_exceptions=True)


if __name__ == "__main__":
    run_task(lambda task: asyncio.run(behind_a_semaphore(task, run_of())))
