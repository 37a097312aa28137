"""The `replicate` client's `run` in threads behind a semaphore: what one writes who knows the blocking call.

`asyncio.to_thread` uses the loop's default executor, which has four threads more than the machine has cores,
and 32 at the most. Whatever the semaphore allows, no more than that are in flight. It is left so: nothing
says it to who writes this, and nothing fails.
"""

import asyncio
import time

import replicate

from bench.contenders.task import MODEL, Picture, Task, carry_out


async def _make(task: Task) -> list[Picture | BaseException]:
    client = replicate.Client()
    slots = asyncio.Semaphore(task.slots)

    async def picture(prompt: str) -> Picture:
        async with slots:
            output = await asyncio.to_thread(client.run, MODEL, input={"prompt": prompt})
        return Picture(str(output[0]), time.time())

    return await asyncio.gather(*map(picture, task.prompts), return_exceptions=True)


if __name__ == "__main__":
    carry_out(lambda task: asyncio.run(_make(task)))
