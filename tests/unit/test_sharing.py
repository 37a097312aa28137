"""Shared resources: no caller takes the whole of one, and each caller gets a turn."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.backpressure import FILE_SECONDS, Quota, Readers, Turns
from errors import QueueFull
from harness.service_process import until
from settings.capacity import SLOWEST

POLITE = ("ann", "bea", "cem", "dan")


def take(quota, caller, amount=1):
    return quota.take(caller, amount, retry_after=lambda: 7)


def takes(quota, caller, number):
    """The number of a caller's attempts that succeed."""
    taken = 0
    for _ in range(number):
        try:
            take(quota, caller)
        except QueueFull:
            continue
        taken += 1
    return taken


def test_a_greedy_caller_gets_half_and_four_polite_callers_find_room():
    quota = Quota(8, counted="places")

    assert 4 == takes(quota, "greedy", 100)
    assert [1] * 4 == [takes(quota, caller, 1) for caller in POLITE]


def test_a_refusal_states_which_limit_is_reached_and_when_to_retry():
    quota = Quota(4, counted="places")
    takes(quota, "greedy", 2)
    with pytest.raises(QueueFull, match=r"The service allows 2 places per caller\.") as refused:
        take(quota, "greedy")
    assert (7, True) == (refused.value.retry_after, refused.value.retryable)

    takes(quota, "ann", 2)
    with pytest.raises(QueueFull, match=r"The service allows 4 places\."):
        take(quota, "bea")
    with pytest.raises(QueueFull) as never:
        take(Quota(4, counted="bytes"), "greedy", 3)
    assert not never.value.retryable


def test_a_single_place_is_open_to_any_caller():
    assert 1 == takes(Quota(1, counted="places"), "ann", 2)


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.sampled_from(["greedy", *POLITE]), st.integers(1, 4), st.booleans()), max_size=60),
)
def test_no_history_gives_a_caller_more_than_half_or_loses_a_place(total, steps):
    quota, held = Quota(total, counted="places"), []
    for caller, amount, leaves in steps:
        if leaves and held:
            *_, leave = held.pop(0)
            leave()
            leave()
            continue
        mine = sum(size for owner, size, _ in held if owner == caller)
        every = sum(size for _, size, _ in held)
        has_room = mine + amount <= max(1, total // 2) and every + amount <= total
        try:
            held.append((caller, amount, take(quota, caller, amount)))
        except QueueFull:
            assert not has_room
        else:
            assert has_room
    assert quota.taken == sum(size for _, size, _ in held)


class Worker:
    """A thread that waits for its turn, and keeps it until `end`."""

    def __init__(self, turns, caller, order):
        self.caller = caller
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(turns, order), daemon=True)
        self._thread.start()

    def _run(self, turns, order):
        with turns.turn(self.caller):
            order.append(self)
            self._done.wait()

    def end(self):
        self._done.set()
        self._thread.join()


def planned(arrivals, seconds):
    """The order of turns if callers ask for them in the order of `arrivals`. A turn lasts
    `seconds[caller]`."""
    now = {"is": 0.0}
    turns, order = Turns(clock=lambda: now["is"]), []
    for number, caller in enumerate(arrivals):
        Worker(turns, caller, order)
        until(lambda number=number: turns.waiting + len(order) == number + 1)
    for admitted in range(len(arrivals)):
        until(lambda admitted=admitted: len(order) == admitted + 1)
        now["is"] += seconds[order[-1].caller]
        order[-1].end()
    return [each.caller for each in order]


def test_turns_rotate_by_caller_regardless_of_the_number_of_requests():
    seconds = dict.fromkeys(["greedy", *POLITE], 1)

    assert ["greedy", *POLITE, *["greedy"] * 4] == planned(["greedy"] * 5 + list(POLITE), seconds)


def test_a_caller_that_has_used_less_time_goes_first():
    order = planned(["greedy", "greedy", "greedy", "ann", "ann", "ann"], {"greedy": 3, "ann": 1})

    assert ["greedy", "ann", "ann", "ann", "greedy", "greedy"] == order


def test_a_newcomer_gets_no_credit_for_the_time_before_it_came():
    now = {"is": 0.0}
    turns, order = Turns(clock=lambda: now["is"]), []

    def ask(caller):
        before = turns.waiting + len(order)
        Worker(turns, caller, order)
        until(lambda: turns.waiting + len(order) == before + 1)

    def end(seconds):
        number = len(order)
        now["is"] += seconds
        order[-1].end()
        until(lambda: turns.waiting == 0 or len(order) == number + 1)

    for caller in ("old", "old", "old"):
        ask(caller)
    end(100)
    for caller in ("new", "new", "new"):
        ask(caller)
    for _ in range(4):
        end(10)
    assert ["old", "old", "new", "old", "new"] == [each.caller for each in order][:5]


class Connection:
    """A reader's connection that takes `rate` bytes a second; None if the sender has not waited for it
    yet."""

    def __init__(self, rate):
        self.patience = 60.0
        self.is_open = True
        self._rate = rate

    def rate(self, _over):
        return self._rate

    def abort(self):
        self.is_open = False


def test_four_polite_readers_replace_the_slowest_readers_of_a_greedy_caller():
    readers = Readers(Quota(8, counted="files"), pause=lambda _: None)
    slow = [Connection(rate) for rate in (5000, 4000, 3000, 2000)]
    for each in slow:
        readers.begin("10.0.0.1", each)

    for _ in POLITE:
        readers.begin("10.0.0.1", Connection(None))

    assert [False] * 4 == [each.is_open for each in slow]
    assert [FILE_SECONDS] * 4 == [each.patience for each in slow]


def test_the_callers_own_slowest_reader_is_dropped_first_and_others_only_when_all_places_are_taken():
    readers = Readers(Quota(4, counted="files"), pause=lambda _: None)
    mine, theirs = [Connection(5000), Connection(4000)], [Connection(10), Connection(None)]
    for address, connections in (("10.0.0.1", mine), ("10.0.0.2", theirs[:1])):
        for each in connections:
            readers.begin(address, each)

    readers.begin("10.0.0.1", Connection(None))
    assert [True, False, True] == [each.is_open for each in (*mine, theirs[0])]

    readers.begin("10.0.0.2", theirs[1])
    readers.begin("10.0.0.3", Connection(None))
    assert [True, False] == [each.is_open for each in (mine[0], theirs[0])]


def test_readers_that_keep_reading_are_not_dropped_and_a_newcomer_is_refused():
    pauses = []
    readers = Readers(Quota(2, counted="files"), pause=pauses.append)
    reading = Connection(SLOWEST)
    leave = readers.begin("10.0.0.1", reading)

    with pytest.raises(QueueFull):
        readers.begin("10.0.0.1", Connection(None))
    assert reading.is_open
    assert 2 == pytest.approx(sum(pauses)), "seconds in which a reader may show that it is slow"

    leave()
    leave()
    readers.begin("10.0.0.1", Connection(None))
