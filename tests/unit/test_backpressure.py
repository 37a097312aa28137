"""Waiting for work on the loop: the result is released once the caller has it."""

import gc
import socket
import weakref

from loop_thread import LoopThread


class Made:
    """Something that work gives."""


def test_the_result_of_work_is_released_without_garbage_collection():
    loop = LoopThread().start()
    ours, theirs = socket.socketpair()
    gc.collect()
    gc.disable()
    try:
        with ours, theirs:

            async def work():
                return Made()

            given = weakref.ref(loop.run(work(), disconnect=ours))
            loop.call(lambda: None)  # whatever the loop still had to do is done
            assert given() is None
    finally:
        gc.enable()
        loop.stop()
