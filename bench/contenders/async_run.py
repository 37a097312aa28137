"""The `replicate` client's own `async_run` behind a semaphore: what most would write first.

It asks Replicate to hold each creation open until the prediction is done (`Prefer: wait`), so a picture costs
one request, as long as none takes more than the minute Replicate holds it. There is no window over creations:
what Replicate refuses is lost, and so is whatever an answer would have told that did not come.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import replicate

from bench.contenders.task import MODEL, Picture, Task, carry_out

Make = Callable[[str], Awaitable[Picture]]


def run_of(**options: Any) -> Make:
    """One picture of a prompt by `async_run`, with its `options`."""
    client = replicate.Client()

    async def picture(prompt: str) -> Picture:
        output = await client.async_run(MODEL, input={"prompt": prompt}, **options)
        return Picture(str(output[0]), time.time())

    return picture


async def behind_a_semaphore(task: Task, make: Make) -> list[Picture | BaseException]:
    """What `make` makes of each prompt, so many of them at once."""
    slots = asyncio.Semaphore(task.slots)

    async def picture(prompt: str) -> Picture:
        async with slots:
            return await make(prompt)

    return await asyncio.gather(*map(picture, task.prompts), return_exceptions=True)


if __name__ == "__main__":
    carry_out(lambda task: asyncio.run(behind_a_semaphore(task, run_of())))
