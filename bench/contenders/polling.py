"""`async_run` with `wait=False`: nothing is held open, and the client's own loop looks after each prediction.

It looks every half second (`REPLICATE_POLL_INTERVAL`), however long the prediction takes, and so it does by
default for whatever outlasts the minute that Replicate holds a creation open. Beyond some 25 predictions in
flight its looks exceed the 3,000 requests a minute that Replicate allows; the client then repeats those that
are refused, after the time it is told.
"""

import asyncio

from bench.contenders.async_run import behind_a_semaphore, run_of
from bench.contenders.task import carry_out

if __name__ == "__main__":
    carry_out(lambda task: asyncio.run(behind_a_semaphore(task, run_of(wait=False))))
