"""The memory for images of calls: its bounds, its turns, and waits that are cancelled in any tick."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generations.room import Room
from tests.support.virtual_time import in_virtual_time, now, run, tick


class Uses:
    """Uses of a room, which count the held bytes."""

    def __init__(self, size, share):
        self.room, self.size, self.share = Room(size, share), size, share
        self.held = {}
        self.order = []

    async def use(self, turn, size, seconds=1.0, *, then=None):
        async with self.room.hold(turn, size) as held:
            self.order.append(turn)
            key = object()
            self.held[key] = turn, size
            self.check()
            try:
                if then is not None:
                    held.shrink(then)
                    self.held[key] = turn, then
                await asyncio.sleep(seconds)
            finally:
                del self.held[key]

    def check(self):
        assert sum(size for _, size in self.held.values()) <= self.size
        for turn in {each for each, _ in self.held.values()}:
            assert sum(size for each, size in self.held.values() if each == turn) <= self.share


@in_virtual_time
async def test_calls_wait_for_room_in_their_order():
    uses = Uses(100, 100)
    await asyncio.gather(*(uses.use("ann", 50, seconds=1.0) for _ in range(6)))

    assert 3.0 == now()


@in_virtual_time
async def test_a_caller_with_its_share_leaves_room_to_others():
    uses = Uses(100, 60)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(uses.use("ann", 30))
        tasks.create_task(uses.use("bob", 30))
        await asyncio.sleep(0.5)
        assert ["ann", "ann", "bob"] == uses.order


@in_virtual_time
async def test_callers_take_turns_at_the_room_that_all_share():
    uses = Uses(50, 50)
    async with asyncio.TaskGroup() as tasks:
        for turn in ("ann", "ann", "ann", "bob", "bob"):
            tasks.create_task(uses.use(turn, 50))

    assert ["ann", "ann", "bob", "ann", "bob"] == uses.order or [
        "ann",
        "bob",
        "ann",
        "bob",
        "ann",
    ] == uses.order


@in_virtual_time
async def test_room_that_a_call_does_not_need_is_free_at_once():
    uses = Uses(100, 100)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(uses.use("ann", 100, then=40))
        tasks.create_task(uses.use("ann", 60))
        await asyncio.sleep(0.5)
        assert 2 == len(uses.order)


@pytest.mark.parametrize("ticks", range(6))
def test_a_wait_that_is_cancelled_in_any_tick_takes_no_room(ticks):
    async def cancelled():
        uses = Uses(100, 100)
        first = asyncio.create_task(uses.use("ann", 100))
        second = asyncio.create_task(uses.use("ann", 100))
        for _ in range(ticks):
            await tick()
        first.cancel()
        second.cancel()
        await asyncio.wait([first, second])
        await uses.use("bob", 100, seconds=0)
        assert 0 == now()

    run(cancelled())


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 40), st.integers(0, 5), st.integers(0, 8)),
        max_size=30,
    )
)
def test_no_history_is_over_the_room_or_keeps_some_of_it(calls):
    async def history():
        uses = Uses(100, 40)

        async def one(turn, size, seconds, patience):
            try:
                async with asyncio.timeout(patience + 0.5):
                    await uses.use(turn, size, seconds, then=size // 2)
            except TimeoutError:
                pass

        await asyncio.gather(*(one(*each) for each in calls))
        began = now()
        await asyncio.gather(uses.use("a", 40, 0), uses.use("b", 40, 0), uses.use("c", 20, 0))
        assert began == now()

    run(history())
