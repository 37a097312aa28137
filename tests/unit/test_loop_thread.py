"""The event loop on its own thread. The tests use real threads, and wait for events instead of sleeping."""

import asyncio
import concurrent.futures
import threading

import pytest

from harness.service_process import until
from loop_thread import LoopThread


@pytest.fixture
def loop():
    started = LoopThread("tested").start()
    yield started
    started.stop()


def threads() -> set[str]:
    return {each.name for each in threading.enumerate()}


async def for_ever(begun: threading.Event, ended: threading.Event) -> None:
    begun.set()
    try:
        await asyncio.Event().wait()
    finally:
        ended.set()


def test_start_returns_when_the_loop_runs(loop):
    assert loop.is_running


def test_call_runs_on_the_loop_and_returns_the_value(loop):
    def called():
        return threading.current_thread().name, asyncio.get_running_loop()

    assert ("tested", loop.call(asyncio.get_running_loop)) == loop.call(called)


def test_call_raises_the_exception_of_the_function(loop):
    with pytest.raises(ZeroDivisionError):
        loop.call(lambda: 1 / 0)


def test_submit_returns_the_result_of_the_coroutine(loop):
    async def work():
        await asyncio.to_thread(lambda: None)
        return 42

    assert 42 == loop.submit(work()).result(10)


def test_the_loop_shows_that_it_runs_until_something_blocks_it():
    now, blocked, release = [0.0], threading.Event(), threading.Event()
    loop = LoopThread("tested", clock=lambda: now[0]).start()

    async def block():
        blocked.set()
        release.wait()

    loop.submit(block())
    assert blocked.wait(10)
    now[0] = 11.0
    assert 11.0 == loop.seconds_since_tick

    release.set()
    until(lambda: loop.seconds_since_tick == 0.0)
    loop.stop()


def test_cancelling_the_future_cancels_the_coroutine(loop):
    begun, ended = threading.Event(), threading.Event()
    future = loop.submit(for_ever(begun, ended))
    assert begun.wait(10)
    assert future.cancel()
    assert ended.wait(10)


def test_stop_cancels_running_tasks_and_joins(loop):
    begun, ended = threading.Event(), threading.Event()
    future = loop.submit(for_ever(begun, ended))
    assert begun.wait(10)
    running = loop.call(asyncio.get_running_loop)
    loop.stop()
    assert ended.is_set()
    assert "tested" not in threads()
    assert running.is_closed()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(0)


def test_stop_also_ends_tasks_that_start_while_it_cancels(loop):
    begun, ended = threading.Event(), threading.Event()
    late_ended = threading.Event()
    late: list[asyncio.Task] = []

    async def starts_another_when_cancelled():
        try:
            await for_ever(begun, ended)
        finally:
            late.append(asyncio.create_task(for_ever(threading.Event(), late_ended)))
            await asyncio.sleep(0)

    loop.submit(starts_another_when_cancelled())
    assert begun.wait(10)
    loop.stop()
    assert late[0].cancelled()
    assert late_ended.is_set()


def test_stopping_twice_is_no_error(loop):
    loop.stop()
    loop.stop()
    assert "tested" not in threads()


def test_stop_leaves_no_thread_behind():
    before = set(threading.enumerate())
    loop = LoopThread("gone").start()
    loop.submit(look_up_many()).result(10)
    loop.stop()
    assert before == set(threading.enumerate())


async def look_up_many() -> set[str]:
    """Many look-ups at once; the threads that there are then, by name."""
    running = asyncio.get_running_loop()
    await asyncio.gather(*(running.getaddrinfo("127.0.0.1", port) for port in range(1, 41)))
    return {thread.name for thread in threading.enumerate()}


def test_name_look_ups_have_four_threads_of_their_own_and_no_shared_pool(loop):
    names = loop.submit(look_up_many()).result(10)
    own = [name for name in names if name.startswith("tested-resolver")]
    assert 1 <= len(own) <= 4
    assert [] == [name for name in names if name.startswith("asyncio_")]
