"""Properties of the gate on its event loop under random histories: a waiter that is cancelled at any point leaves
nothing behind. `test_policy_properties.py` tests the rules of admission.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from admission.own_limits import OwnLimits
from admission.sliding_window import WINDOW
from concurrency import Gate
from tests.support.virtual_time import VirtualLoop, run

CALLERS = st.sampled_from(["ann", "bob", "cid"])
BATCHES = st.sampled_from([None, None, "one", "two"])
SLOTS = st.integers(1, 8)
PLACES = st.integers(1, 12) | st.just(1000)
BOUNDS = st.none() | st.integers(1, 3)


@dataclass(frozen=True)
class PlannedGeneration:
    """One generation of a history. Seconds are whole, so that their sums are exact."""

    comes_at: int
    caller: str
    batch: str | None
    max_concurrent: int | None
    there: int
    back: int
    over: int
    is_sent: bool
    gives_up_after: int | None


@dataclass(frozen=True)
class Arrival:
    at: float
    order: int
    limit: int
    caller: str


GENERATIONS = st.builds(
    PlannedGeneration,
    comes_at=st.integers(0, 150),
    caller=CALLERS,
    batch=BATCHES,
    max_concurrent=BOUNDS,
    there=st.integers(0, 70),
    back=st.integers(0, 70),
    over=st.integers(0, 20),
    is_sent=st.booleans(),
    gives_up_after=st.none() | st.integers(0, 90),
)
CHANGES = st.lists(st.tuples(st.integers(0, 400), SLOTS, PLACES), max_size=6)


@given(
    wanted=st.lists(GENERATIONS, min_size=1, max_size=40),
    changes=CHANGES,
    reserve=st.sampled_from([0.0, 0.5]),
    slots=SLOTS,
    places=PLACES,
    most=BOUNDS,
    own_places=BOUNDS,
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_60_seconds_hold_more_arrivals_than_the_limit(
    wanted, changes, reserve, slots, places, most, own_places
):
    """Neither of all callers nor of one with a limit of its own, which never holds more slots than its own limit."""
    arrivals: list[Arrival] = []
    admitted: list[PlannedGeneration] = []

    async def live(gate, one):
        await asyncio.sleep(one.comes_at)
        async with asyncio.timeout(one.gives_up_after):
            lease = await gate.acquire(one.caller, batch=one.batch, max_concurrent=one.max_concurrent)
        with lease:
            admitted.append(one)
            assert most is None or gate.in_flight("ann") <= most
            order, limit = len(admitted), gate.statistics().requests_per_minute_limit
            if one.is_sent:
                lease.sent()
                await asyncio.sleep(one.there)
                arrivals.append(Arrival(asyncio.get_running_loop().time(), order, limit, one.caller))
                await asyncio.sleep(one.back)
                lease.answered()
            await asyncio.sleep(one.over)

    async def change(gate, at, slots, places):
        await asyncio.sleep(
            at + 0.5
        )  # never in the tick of an admission, so that the limit of each admission is known
        gate.configure(concurrent_limit=slots, requests_per_minute=places)

    async def scenario():
        gate = Gate(concurrent_limit=slots, requests_per_minute=places, interactive_reserve=reserve)
        gate.limit_caller("ann", max_concurrent=most, per_minute=own_places)
        work = [live(gate, one) for one in wanted] + [change(gate, *one) for one in changes]
        ends = await asyncio.gather(*work, return_exceptions=True)
        assert {type(None), TimeoutError} >= {type(end) for end in ends}
        assert [] == [one for one in wanted if one.gives_up_after is None and one not in admitted]
        assert 0 == gate.statistics().current_concurrent
        await asyncio.sleep(WINDOW)
        assert 0 == gate.statistics().current_rate_per_minute

    run(scenario())
    for first in arrivals:
        together = [one for one in arrivals if first.at <= one.at < first.at + WINDOW]
        assert len(together) <= max(together, key=lambda one: one.order).limit
        assert own_places is None or sum(one.caller == "ann" for one in together) <= own_places


class AnyHistory(RuleBasedStateMachine):
    """Each rule takes at most one turn of the loop, so that the next rule may fall into any tick of an admission."""

    @initialize(slots=SLOTS, places=PLACES, reserve=st.sampled_from([0.0, 0.5]))
    def open(self, slots, places, reserve):
        self.loop = VirtualLoop()
        self.gate = Gate(concurrent_limit=slots, requests_per_minute=places, interactive_reserve=reserve)
        self.slots, self.places = {slots}, {places}
        self.in_flight = self.used = 0
        self.waiters: list[asyncio.Task] = []
        self.leases: list = []

    def turn(self, act=lambda: None):
        """Run one turn of the loop, and `act` in it."""
        self.loop.call_soon(act)
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def seen(self):
        """The statistics of the gate, before the next turn of the loop."""
        found = []
        self.turn(lambda: found.append(self.gate.statistics()))
        return found[0]

    async def live(self, caller, batch, bound):
        self.leases.append(await self.gate.acquire(caller, batch=batch, max_concurrent=bound))

    @rule(caller=CALLERS, batch=BATCHES, bound=BOUNDS, count=st.integers(1, 12))
    def admit(self, caller, batch, bound, count):
        for _ in range(count):
            self.waiters.append(self.loop.create_task(self.live(caller, batch, bound)))

    @rule(turns=st.integers(1, 4))
    def tick(self, turns):
        for _ in range(turns):
            self.turn()

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def cancel(self, data):
        data.draw(st.sampled_from(self.waiters)).cancel()

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), way=st.sampled_from(["sent", "answered", "released", "unsent"]))
    def finish(self, data, way):
        lease = data.draw(st.sampled_from(self.leases))

        def act():
            if way != "unsent":
                with suppress(RuntimeError):  # it was sent before
                    lease.sent()
            if way == "answered":
                lease.answered()
            if way in {"released", "unsent"}:
                self.leases.remove(lease)
                lease.release()

        self.turn(act)

    @precondition(lambda self: self.leases)
    @rule()
    def finish_all(self):
        """Nothing was sent, so no window delays the next admission."""
        while self.leases:
            self.turn(self.leases.pop().release)

    @rule(slots=SLOTS, places=PLACES)
    def configure(self, slots, places):
        self.slots.add(slots)
        self.places.add(places)
        self.turn(lambda: self.gate.configure(concurrent_limit=slots, requests_per_minute=places))

    @rule(seconds=st.integers(1, 70))
    def wait(self, seconds):
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @invariant()
    def no_admission_exceeds_the_limits(self):
        seen = self.seen()
        in_flight, used = seen.current_concurrent, seen.current_rate_per_minute
        assert in_flight <= max(self.in_flight, *self.slots)
        assert used <= max(self.used, *self.places)
        self.in_flight, self.used = in_flight, used
        self.slots, self.places = {seen.concurrent_limit}, {seen.requests_per_minute_limit}

    @invariant()
    def every_held_slot_has_a_lease_or_a_fresh_grant(self):
        granted = sum(not waiter.done() for waiter in self.waiters)
        assert len(self.leases) <= self.seen().current_concurrent <= len(self.leases) + granted

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self.end())

    async def end(self):
        """After enough time, every remaining waiter is admitted, and nothing is left behind."""
        for _ in range(len(self.waiters) + 1):
            while self.leases:
                self.leases.pop().release()
            await asyncio.sleep(10_000)
        assert [] == [waiter for waiter in self.waiters if not waiter.done()]
        assert [] == [waiter for waiter in self.waiters if not waiter.cancelled() and waiter.exception()]
        seen = self.gate.statistics()
        assert (0, 0, 0) == (seen.current_concurrent, seen.waiting, seen.current_rate_per_minute)
        reserve = self.gate.snapshot().reserve
        assert [] == [at for at in (*reserve.places, *reserve.single_places) if at > self.loop.time()]


class AnyHistoryWithPauses(AnyHistory):
    @rule(caller=CALLERS, seconds=st.integers(1, 90))
    def pause(self, caller, seconds):
        self.turn(lambda: self.gate.pause(caller, seconds))

    @rule(caller=CALLERS, exhausted_for=st.sampled_from([0, 0, 10]))
    def proceed(self, caller, exhausted_for):
        self.turn(lambda: self.gate.proceed(caller, exhausted_for=exhausted_for))


class AnyHistoryWithOwnLimits(AnyHistoryWithPauses):
    """The own limits of callers change, too."""

    @initialize(slots=SLOTS, places=PLACES, reserve=st.sampled_from([0.0, 0.5]))
    def open(self, slots, places, reserve):
        super().open(slots, places, reserve)
        self.own: dict[str, OwnLimits] = {}
        self.mine: Counter[str] = Counter()
        """How many leases each caller holds."""

    @rule(caller=CALLERS, most=BOUNDS, places=BOUNDS)
    def limit_caller(self, caller, most, places):
        self.own[caller] = OwnLimits(most, places)
        self.mine[caller] = max(self.mine[caller], self.gate.in_flight(caller))
        self.turn(lambda: self.gate.limit_caller(caller, max_concurrent=most, per_minute=places))

    @invariant()
    def no_admission_exceeds_own_limits(self):
        for caller, own in self.own.items() if hasattr(self, "own") else ():
            held = self.gate.in_flight(caller)
            if own.max_concurrent is not None:
                assert held <= max(self.mine[caller], own.max_concurrent)
            self.mine[caller] = held
        snapshot = []
        self.turn(lambda: snapshot.append(self.gate.snapshot()))
        for caller, seen in snapshot[0].own_limits.items():
            assert self.own[caller] == seen.limits

    async def end(self):
        await super().end()
        assert {} == self.gate.snapshot().own_limits


TestAnyHistory = AnyHistory.TestCase
TestAnyHistoryWithPauses = AnyHistoryWithPauses.TestCase
TestAnyHistoryWithOwnLimits = AnyHistoryWithOwnLimits.TestCase
for _case in (TestAnyHistory, TestAnyHistoryWithPauses, TestAnyHistoryWithOwnLimits):
    _case.settings = settings(max_examples=80, stateful_step_count=40, deadline=None, derandomize=True)
