"""The threads that handle requests: they start on demand, up to a bound."""

import threading
from queue import SimpleQueue

import pytest

import server.threads
from server.threads import Threads


class Call:
    """A call that lasts until it is released. `threads` collects the ids of the threads that run calls."""

    def __init__(self, threads):
        self.threads = threads
        self.has_begun, self._may_end = threading.Event(), threading.Event()

    def __call__(self):
        self.threads.put(threading.get_ident())
        self.has_begun.set()
        assert self._may_end.wait(30)

    def release(self):
        self._may_end.set()


@pytest.fixture
def seen():
    return SimpleQueue()


def run(threads, seen, number):
    calls = [Call(seen) for _ in range(number)]
    for call in calls:
        threads.run(call)
    return calls


def test_calls_run_at_once_up_to_the_bound_and_the_rest_in_turn(seen):
    threads = Threads(2)
    first, second, third = run(threads, seen, 3)

    assert first.has_begun.wait(30)
    assert second.has_begun.wait(30)
    assert not third.has_begun.is_set()
    second.release()
    assert third.has_begun.wait(30)

    first.release(), third.release()
    assert 2 == len({seen.get() for _ in range(3)})


def test_an_idle_thread_is_used_again(seen, monkeypatch):
    started = []
    start = server.threads.start_new_thread
    monkeypatch.setattr(server.threads, "start_new_thread", lambda *given: started.append(start(*given)))
    threads = Threads(10)
    for _ in range(5):
        (call,) = run(threads, seen, 1)
        call.release()
        assert threads.idle.acquire(timeout=30)  # it is idle
        threads.idle.release()

    assert 1 == len(started)


def test_a_call_waits_for_an_existing_thread_if_the_system_has_no_more(seen, monkeypatch):
    threads = Threads(10)
    (first,) = run(threads, seen, 1)

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(server.threads, "start_new_thread", refuse)
        (second,) = run(threads, seen, 1)
    first.release()

    assert second.has_begun.wait(30)
    second.release()
