"""`async_run` with `wait=False`: no creation is held open, and the client polls each prediction.

It polls every half second (`REPLICATE_POLL_INTERVAL`), however long the prediction takes. With a hold it does the same
after the minute of the hold. Beyond some 25 predictions in flight its polls exceed the 3,000 requests a minute that
Replicate allows. The client then repeats refused polls after their `Retry-After`.
"""

import asyncio

from bench.contenders.async_run import behind_a_semaphore, run_of
from bench.contenders.task import run_task

if __name__ == "__main__":
    run_task(lambda task: asyncio.run(behind_a_semaphore(task, run_of(wait=False))))
