"""Threads for blocking functions: a cancelled wait ends with the thread, which cannot be stopped."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from loop_thread import Pool
from tests.support.wiring import on_a_loop


@pytest.fixture
def pool():
    made = Pool(ThreadPoolExecutor(2))
    yield made
    made.close()


@on_a_loop
async def test_the_result_or_exception_of_a_function_is_returned_or_raised(pool):
    assert await pool.run(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 / 0)


@pytest.mark.parametrize("ending", [lambda: None, lambda: 1 / 0], ids=["returns", "raises"])
@pytest.mark.parametrize("times", [1, 3])
@on_a_loop
async def test_a_wait_cancelled_once_or_more_ends_only_with_its_thread(pool, times, ending):
    begun, go_on, ended = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def block():
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(30)
        ended.set()
        ending()

    task = asyncio.create_task(pool.run(block))
    await begun.wait()
    for _ in range(times):
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
