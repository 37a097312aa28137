"""Whoever waits for work on the loop: what it gave is let go of as soon as they have it."""

import gc
import socket
import weakref

from loop_thread import LoopThread


class Made:
    """Something that work gives."""


def test_what_work_gave_is_let_go_of_without_waiting_for_a_collection():
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
