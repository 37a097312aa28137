"""Properties of the gate that several processes share, under random histories of faults.

Hypothesis submits generations, lets time pass, kills, freezes, blocks and stops processes, stalls the upstream and
loses its answers, stops and crashes the database, and loses its answers and notices. No 60 seconds hold more arrivals
at the upstream than the limit, no more predictions run than there are slots, at most half of these wait for a version
to boot, callers take turns and keep to their own limits, and each generation gets one prediction. When the faults
cease, all work ends, and no row is left behind.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from structlog.testing import capture_logs

from admission.boots import most_booting
from admission.metered.limits import MeteredLimits
from admission.sliding_window import WINDOW
from contract.callers import ADMIN
from tests.support.places import WORLD, PlacesLoop
from tests.support.shared_database import Database, Generation, Row
from tests.support.shared_service import Service
from tests.support.shared_upstream import Prediction, Upstream
from tests.support.virtual_time import now

CALLERS = st.sampled_from([ADMIN, "ann", "bob"])
PROCESSES = 3
WHICH = st.integers(0, PROCESSES - 1)
SLOTS = st.sampled_from([1, 2, 3, 12])
PLACES = st.sampled_from([1, 3, 8, 30])
SECONDS = st.sampled_from([0.2, 2.0, 15.0])
VERSIONS = st.sampled_from([None, "cold", "cold", "colder"])
SPANS = st.sampled_from([1.0, 4.0, 6.0, 12.0, 30.0, 90.0])
OUTAGES = st.sampled_from([0.3, 2.0, 6.0, 20.0, 70.0])

TIMES = st.sampled_from([0.0, 0.0, 0.001, 0.01, 0.05, 0.1, 0.3, 1.0, 3.0, 8.0, 20.0, 61.0])

SLACK = 2.0
"""Seconds within which changed limits are in force at the holder of the gate."""


class Turns:
    """Checks that callers who wait take turns, in each term of the gate.

    A caller waits from the second look that finds it waiting, since the holder may have admitted others before the
    first. Of two callers who wait, neither gets two grants more than the other, unless the other holds many slots."""

    def __init__(self, database: Database, slots: Callable[[], int]) -> None:
        self._database = database
        self._slots = slots
        self._term = -1
        self._new: set[str] = set()
        self._waiting: dict[str, Counter[str]] = {}
        """The callers who wait, and the grants of all since then."""
        self._is_full: dict[str, bool] = {}
        """Whether they may have held half of the slots meanwhile."""
        self.paused: set[str] = set()
        """Callers that may be paused, and are not compared."""
        self.problems: list[str] = []

    def look(self) -> None:
        rows = self._database.rows.values()
        waiting = {row.record.caller for row in rows if _needs_only_a_turn(row) and row.seen >= 0}
        if self._database.term != self._term:
            self._term, self._new, self._waiting = self._database.term, set(), {}
        for caller in [each for each in self._waiting if each not in waiting]:
            del self._waiting[caller]
        for caller in self._new & waiting - self._waiting.keys():
            self._waiting[caller] = Counter()
            self._is_full[caller] = False
        self._new = waiting

    def grant(self, rows: list[Row]) -> None:
        held = Counter(
            row.record.caller
            for row in self._database.rows.values()
            if row.state < 5 and (row.granted or row.state > 0)
        )
        for caller in self._waiting:
            self._is_full[caller] |= 2 * (held[caller] + 1) >= self._slots()
        warm = [row for row in rows if row.record.boots is None]
        left = Counter(row.record.caller for row in self._database.rows.values() if _needs_only_a_turn(row))
        left += Counter(row.record.caller for row in warm)
        for row in rows:
            other = row.record.caller
            for counts in self._waiting.values():
                counts[other] += 1
            for caller in self._waiting:
                self._compare(caller, other)
            left[other] -= row in warm
            if left[other] == 0:
                self._waiting.pop(other, None)

    def _compare(self, caller: str, other: str) -> None:
        """The other has got a turn."""
        if other == caller or other not in self._waiting or self._is_full[caller]:
            return
        if self.paused & {caller, other}:
            return
        both = min(self._waiting[caller], self._waiting[other], key=Counter.total)
        if both[other] > both[caller] + 2:
            self.problems.append(f"{other} got {both[other]} turns, and {caller} {both[caller]}")


def _needs_only_a_turn(row: Row) -> bool:
    """Whether it waits, and for no room of a boot."""
    return row.waits and row.record.boots is None


class SharedGate(RuleBasedStateMachine):
    """Each rule begins something, and lets some time pass."""

    calls: ClassVar[dict[str, Any] | None] = {"concurrent_limit": 10, "limits": MeteredLimits()}
    """The gate of calls changes hands with that of creations."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=PlacesLoop)
        self.loop = self.runner.get_loop()
        self.loop.set_exception_handler(lambda _, context: self.problems.append(str(context)))
        self.numbers = count(1)
        self.asked: list[Generation] = []
        self.seconds: dict[str, float] = {}
        self.problems: list[str] = []
        self.timers: list[asyncio.TimerHandle] = []
        self.everyone: list[Service] = []
        self.log = capture_logs()
        self.events = self.log.__enter__()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def later(self, seconds: float, function: Callable[..., object], *arguments: Any) -> None:
        self.timers.append(self.loop.call_later(seconds, function, *arguments, context=WORLD))

    @initialize(
        slots=SLOTS,
        places=PLACES,
        notices=st.sampled_from([True, True, True, False]),
        latency=st.sampled_from([0.002, 0.03]),
        connecting=st.sampled_from([0.1, 2.0]),
        there=st.sampled_from([0.05, 1.0]),
        load=st.lists(st.tuples(WHICH, CALLERS, SECONDS, VERSIONS), max_size=8),
        then=TIMES,
    )
    def begin(
        self,
        slots: int,
        places: int,
        notices: bool,
        latency: float,
        connecting: float,
        there: float,
        load: list[tuple[int, str, float, str | None]],
        then: float,
    ) -> None:
        self.limits = [(0.0, slots, places)]
        self.database = Database(latency=latency, notices=notices)
        self.turns = Turns(self.database, lambda: self.limits[-1][1])
        self.database.on_look, self.database.on_grant = self.turns.look, self.turns.grant
        self.upstream = Upstream(connecting=connecting, there=there, on_arrival=self.check_arrival)
        self.processes: list[Service] = []
        self.do(self.add_processes(PROCESSES))
        for which, caller, seconds, version in load:
            self.ask(which, caller, None, 1, seconds, 0.0, version)
        self.do(asyncio.sleep(then))

    async def add_processes(self, most: int) -> None:
        self.processes = [each for each in self.processes if not each.is_over]
        _, slots, places = self.limits[-1]
        while len(self.processes) < most:
            name = f"h:{next(self.numbers)}:x"
            self.processes.append(
                Service(
                    self.database, self.upstream, name, self.seconds,
                    concurrent_limit=slots, requests_per_minute=places, calls=self.calls,
                )
            )  # fmt: skip
            self.everyone.append(self.processes[-1])
            self.limit_callers(self.processes[-1])
            for each in self.processes:
                each.others = self.processes
        await asyncio.sleep(0)

    def limit_callers(self, process: Service) -> None:
        """A new process learns of the own limits of callers."""

    def process(self, which: int) -> Service:
        self.do(self.add_processes(PROCESSES))
        return self.processes[which]

    # ── Rules

    @rule(
        which=WHICH,
        caller=CALLERS,
        batch=st.sampled_from([None, None, "one"]),
        most=st.sampled_from([1, 1, 2, 5]),
        seconds=SECONDS,
        then=TIMES,
        version=VERSIONS,
    )
    def ask(
        self,
        which: int,
        caller: str,
        batch: str | None,
        most: int,
        seconds: float,
        then: float,
        version: str | None = None,
    ) -> None:
        process = self.process(which)
        if process.is_draining or len(self.asked) >= 20:
            return

        async def submit() -> None:
            for _ in range(most):
                generation = Generation(f"g{len(self.asked)}", caller, batch, process.name, version)
                self.asked.append(generation)
                self.seconds[generation.id] = seconds
                process.submit(generation)

        self.do(submit())
        self.do(asyncio.sleep(then))

    @rule(which=WHICH, then=TIMES)
    def kill(self, which: int, then: float) -> None:
        self.process(which).die()
        self.do(asyncio.sleep(then))

    @rule(which=WHICH, seconds=SPANS, only_loop=st.booleans(), then=TIMES)
    def freeze(self, which: int, seconds: float, only_loop: bool, then: float) -> None:
        process = self.process(which)
        if only_loop:
            process.block()
        else:
            process.freeze()
        self.later(seconds, process.go_on)
        self.do(asyncio.sleep(then))

    @rule(which=WHICH, drain=st.sampled_from([0.0, 2.0, 20.0]), then=TIMES)
    def stop(self, which: int, drain: float, then: float) -> None:
        process = self.process(which)

        async def stop() -> None:
            if not process.is_draining:
                process.start(process.stop(drain))

        self.do(stop())
        self.do(asyncio.sleep(then))

    @rule(caller=st.sampled_from(["ann", "bob"]), which=WHICH, then=TIMES)
    def let_an_owner_return(self, caller: str, which: int, then: float) -> None:
        self.do(self.owners_return(self.process(which), caller))
        self.do(asyncio.sleep(then))

    async def owners_return(self, process: Service, *callers: str) -> None:
        for each in list(self.database.generations.values()):
            if each.is_suspended and each.caller in callers:
                process.start(process.claim(each))

    @rule(seconds=st.sampled_from([1.0, 10.0, 40.0, 90.0]), then=TIMES)
    def stall_the_upstream(self, seconds: float, then: float) -> None:
        self.upstream.begin_stall()
        self.later(seconds, self.upstream.end_stall)
        self.do(asyncio.sleep(then))

    @rule(
        faults=st.lists(
            st.sampled_from(["", "lost", "unanswered", "slow", "refused"]), min_size=1, max_size=4
        ),
        then=TIMES,
    )
    def spoil_the_next_creations(self, faults: list[str], then: float) -> None:
        self.upstream.faults.extend(faults)
        self.do(asyncio.sleep(then))

    @rule(seconds=OUTAGES, then=TIMES)
    def stop_the_database(self, seconds: float, then: float) -> None:
        self.database.is_away = True
        self.later(seconds, vars(self.database).update, {"is_away": False})
        self.do(asyncio.sleep(then))

    @rule(seconds=OUTAGES, lost=st.sampled_from([0, 1, 3, 1000]), then=TIMES)
    def crash_the_database(self, seconds: float, lost: int, then: float) -> None:
        self.database.crash(lost)
        self.later(seconds, self.database.restart)
        self.do(asyncio.sleep(then))

    @rule(most=st.integers(1, 3), then=TIMES)
    def lose_answers_of_the_database(self, most: int, then: float) -> None:
        self.database.lost_answers = most
        self.do(asyncio.sleep(then))

    @rule(which=WHICH, seconds=OUTAGES, then=TIMES)
    def cut_a_process_off(self, which: int, seconds: float, then: float) -> None:
        name = self.process(which).name
        self.database.cut_off.add(name)
        self.later(seconds, self.database.cut_off.discard, name)
        self.do(asyncio.sleep(then))

    @rule(seconds=OUTAGES, then=TIMES)
    def lose_notices(self, seconds: float, then: float) -> None:
        self.database.is_deaf = True
        self.later(seconds, vars(self.database).update, {"is_deaf": False})
        self.do(asyncio.sleep(then))

    @rule(slots=SLOTS, places=PLACES, then=TIMES)
    def configure(self, slots: int, places: int, then: float) -> None:
        self.do(self.change_limits(slots, places))
        self.do(asyncio.sleep(then))

    async def change_limits(self, slots: int, places: int) -> None:
        self.limits.append((now(), slots, places))
        for each in self.processes:

            def change(each: Service = each) -> None:
                each.gate.configure(concurrent_limit=slots, requests_per_minute=places)

            self.loop.call_soon(change, context=each.place.context)

    # ── What must hold

    def check_arrival(self, arrival: Prediction) -> None:
        if arrival.reference not in self.upstream.predictions:  # it is refused
            self.turns.paused.add(arrival.caller)
        together = [each for each in self.upstream.arrivals if each.began > arrival.began - WINDOW]
        last = max(each.granted_at for each in together)
        if len(together) > self.limit_at(last, 2):
            self.problems.append(f"{len(together)} arrivals in 60 s until {arrival}")
        running = self.upstream.running
        if running and len(running) > self.limit_at(max(each.granted_at for each in running), 1):
            self.problems.append(f"{len(running)} predictions at {arrival.began}: {running}")
        booting = self.upstream.boots(arrival.version)
        if arrival.version is not None and len(booting) > self.most_booting(booting):
            self.problems.append(
                f"{len(booting)} predictions wait for one boot at {arrival.began}: {booting}"
            )
        if len(self.upstream.predictions.get(arrival.reference, [])) > 1:
            self.problems.append(f"two predictions of {arrival.reference}")

    def most_booting(self, booting: list[Prediction]) -> int:
        last = max((each.granted_at for each in booting), default=0.0)
        return most_booting(self.limit_at(last, 1))

    def limit_at(self, moment: float, which: int) -> int:
        """The highest limit of the last seconds before a moment."""
        before = [each for each in self.limits if each[0] <= moment - SLACK][-1:]
        recent = [each for each in self.limits if moment - SLACK < each[0] <= moment]
        return max(each[which] for each in [*before, *recent])

    @invariant()
    def everything_holds(self) -> None:
        if hasattr(self, "database"):
            problems = [*self.problems, *self.turns.problems]
            assert [] == problems, problems

    # ── The end

    def teardown(self) -> None:
        try:
            if hasattr(self, "database"):
                self.do(self.end_all_faults())
                self.do(self.come_to_the_end())
                self.do(self.check())
                self.everything_holds()
        finally:
            self.do(self.end_all_tasks())
            self.log.__exit__(None, None, None)
            self.runner.close()

    async def end_all_faults(self) -> None:
        for timer in self.timers:
            timer.cancel()
        self.upstream.end_stall()
        self.upstream.faults.clear()
        database = self.database
        if database.is_away:
            database.restart()
        database.is_deaf, database.lost_answers = False, 0
        database.cut_off.clear()
        for each in self.everyone:
            each.go_on()
        await asyncio.sleep(20.0)  # what was accepted is on disk, and the dead are buried

    async def come_to_the_end(self) -> None:
        """All work ends: first that which needs no owner, then that of owners who return."""
        await self.wait_until(lambda each: each.state == "ended" or each.is_suspended)
        await self.wait_until(lambda each: each.state == "ended", "ann", "bob")

    async def wait_until(self, has_ended: Callable[[Generation], bool], *owners: str) -> None:
        _, slots, places = self.limits[-1]
        left = [each for each in self.database.generations.values() if not has_ended(each)]
        boot = self.upstream.booting + 2.0
        seconds = sum(self.seconds[each.id] + 1.0 + boot * (each.version is not None) for each in left)
        deadline = now() + 150.0 + seconds / most_booting(slots) + WINDOW * (len(left) / places + 1)
        deadline += self.seconds_of_own_limits(left)
        while left := [each for each in self.database.generations.values() if not has_ended(each)]:
            assert now() < deadline, f"these do not end: {left}"
            await self.add_processes(PROCESSES)
            await self.owners_return(self.processes[-1], *owners)
            await asyncio.sleep(1.0)

    def seconds_of_own_limits(self, left: list[Generation]) -> float:  # noqa: ARG002
        """The most seconds for which own limits of callers delay these generations."""
        return 0.0

    async def check(self) -> None:
        made = Counter(
            reference.partition(".")[0]
            for reference, found in self.upstream.predictions.items()
            for _ in found
        )
        assert dict.fromkeys(self.database.generations, 1) == made, made
        await asyncio.sleep(WINDOW + 15.0)
        assert {} == self.database.rows, self.database.rows
        [gate] = [
            each.keeper.gate for each in self.processes if each.keeper.gate is not None and not each.is_over
        ]
        seen = gate.statistics()
        assert (0, 0, 0) == (seen.current_concurrent, seen.waiting, seen.current_rate_per_minute)
        assert [] == [each for process in self.everyone for each in process.errors]
        assert [] == [each for each in self.events if each["event"] in {"gate_failed", "takeover_failed"}]

    async def end_all_tasks(self) -> None:
        for each in self.everyone:
            each.cancel()
        await asyncio.sleep(0)


class SharedGateWithOwnLimits(SharedGate):
    """The caller `ann` has own limits, which change in every process."""

    calls = None

    def __init__(self) -> None:
        super().__init__()
        self.own: list[tuple[float, int, int]] = []

    @initialize(
        slots=st.sampled_from([3, 12]),
        places=st.sampled_from([8, 30]),
        own=st.tuples(SLOTS, PLACES),
        notices=st.sampled_from([True, True, True, False]),
        latency=st.sampled_from([0.002, 0.03]),
        load=st.lists(st.tuples(WHICH, CALLERS, SECONDS, VERSIONS), max_size=8),
        then=TIMES,
    )
    def begin(  # type: ignore[override]
        self,
        slots: int,
        places: int,
        own: tuple[int, int],
        notices: bool,
        latency: float,
        load: list[tuple[int, str, float, str | None]],
        then: float,
    ) -> None:
        self.own = [(0.0, *own)]
        super().begin(slots, places, notices, latency, 0.1, 0.05, load, then)
        self.turns.paused.add("ann")

    def limit_callers(self, process: Service) -> None:
        _, most, places = self.own[-1]
        process.gate.limit_caller("ann", max_concurrent=most, per_minute=places)

    @rule(most=SLOTS, places=PLACES, then=TIMES)
    def limit_caller(self, most: int, places: int, then: float) -> None:
        self.do(self.change_own_limits(most, places))
        self.do(asyncio.sleep(then))

    async def change_own_limits(self, most: int, places: int) -> None:
        self.own.append((now(), most, places))
        for each in self.processes:
            self.loop.call_soon(self.limit_callers, each, context=each.place.context)

    def check_arrival(self, arrival: Prediction) -> None:
        super().check_arrival(arrival)
        if arrival.caller != "ann":
            return
        mine = [each for each in self.upstream.arrivals if each.caller == "ann"]
        together = [each for each in mine if each.began > arrival.began - WINDOW]
        if len(together) > self.own_limit_at(max(each.granted_at for each in together), 2):
            self.problems.append(f"{len(together)} arrivals of ann in 60 s until {arrival}")
        running = [each for each in self.upstream.running if each.caller == "ann"]
        if running and len(running) > self.own_limit_at(max(each.granted_at for each in running), 1):
            self.problems.append(f"{len(running)} predictions of ann at {arrival.began}: {running}")

    def own_limit_at(self, moment: float, which: int) -> int:
        before = [each for each in self.own if each[0] <= moment - SLACK][-1:]
        recent = [each for each in self.own if moment - SLACK < each[0] <= moment]
        return max(each[which] for each in [*before, *recent])

    def seconds_of_own_limits(self, left: list[Generation]) -> float:
        _, most, places = self.own[-1]
        mine = [each for each in left if each.caller == "ann"]
        boot = self.upstream.booting + 2.0
        seconds = sum(self.seconds[each.id] + 1.0 + boot * (each.version is not None) for each in mine)
        return seconds / most + WINDOW * (len(mine) / places + 1)


def _some(examples: int) -> settings:
    """The same examples at each run: an example takes a second, so a search for faults needs hours by hand."""
    return settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


class TestSomeHistories(SharedGate.TestCase):  # type: ignore[name-defined]
    settings = _some(4)


class TestSomeHistoriesWithOwnLimits(SharedGateWithOwnLimits.TestCase):  # type: ignore[name-defined]
    settings = _some(4)


@pytest.mark.slow
class TestMoreHistoriesWithOwnLimits(SharedGateWithOwnLimits.TestCase):  # type: ignore[name-defined]
    settings = _some(8)


@pytest.mark.slow
class TestMoreHistories(SharedGate.TestCase):  # type: ignore[name-defined]
    settings = _some(8)


def test_a_process_that_freezes_before_it_sends_and_is_taken_over_sends_nothing_when_it_wakes():
    history = SharedGate()
    load = [(0, "ann", 0.2, None), (1, ADMIN, 2.0, None)]
    try:
        history.begin(2, 30, True, 0.002, connecting=2.0, there=1.0, load=load, then=1.0)
        history.freeze(1, 30.0, only_loop=False, then=40.0)
    finally:
        history.teardown()

    assert 2 == history.database.generations["g1"].number
