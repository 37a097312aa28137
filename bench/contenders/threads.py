"""The `replicate` client's `run` in threads behind a semaphore, for users of the blocking call.

`asyncio.to_thread` uses the loop's default executor, which has four threads more than cores, and 32 at the most. No
more predictions are in flight than that. That is not corrected here, since no error shows it to
the user.
"""

import asyncio
import time

import replicate

from bench.contenders.task import MODEL, Picture, Task, run_task


async def _make(task: Task) -> list[Picture | BaseException]:
    client = replicate.Client()
    slots = asyncio.Semaphore(task.slots)

    async def picture(prompt: str) -> Picture:
        async with slots:
            output = await asyncio.to_thread(client.run, MODEL, input={"prompt": prompt})
        return Picture(str(output[0]), time.time())

    return await asyncio.gather(*map(picture, task.prompts), return_exceptions=True)


if __name__ == "__main__":
    run_task(lambda task: asyncio.run(_make(task)))
