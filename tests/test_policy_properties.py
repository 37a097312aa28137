"""What holds of admission for every history: the policy itself, without an event loop, at any moment.

A rule takes 0.4 ms on one core, most of it Hypothesis's own: 2,700 rules a second, a hundred thousand in 40 s.
"""

import math
from collections import Counter
from itertools import combinations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from admission.durations import Durations
from admission.policy import Policy
from admission.sliding_window import WINDOW

CALLERS = st.sampled_from(["ann", "bob", "cid"])
BATCHES = st.sampled_from([None, None, "one", "two"])
SLOTS = st.integers(1, 8)
PLACES = st.integers(1, 12) | st.just(1000)
BOUNDS = st.none() | st.integers(1, 3)


class AnyHistory(RuleBasedStateMachine):
    """Tickets are numbers; seconds are whole, so that sums of them are exact. A model beside the policy counts for
    itself which tickets have a slot and which places still count."""

    @initialize(slots=SLOTS, places=PLACES, reserve=st.sampled_from([0.0, 0.25]))
    def open(self, slots, places, reserve):
        self.policy = Policy(
            concurrent_limit=slots,
            requests_per_minute=places,
            interactive_reserve=reserve,
            durations=Durations(),
        )
        self.now = 0.0
        self.slots, self.places, self.has_reserve = slots, places, int(places * reserve) > 0
        self.caller_of: list[str] = []
        self.waiting: set[int] = set()
        self.unanswered: set[int] = set()
        self.running: set[int] = set()
        """Answered, and still in their slots."""
        self.spent: list[float] = []
        """When each place that was answered is free again."""
        self.admitted: Counter[str] = Counter()
        self.together: dict[tuple[str, str], int] = {}
        self.next_chance = math.inf

    def used(self) -> int:
        return len(self.unanswered) + sum(free_at > self.now for free_at in self.spent)

    def in_flight(self) -> int:
        return len(self.unanswered) + len(self.running)

    def may_go(self) -> set[str]:
        """The callers with waiting tickets that only the limits hold back."""
        return {
            name
            for name, caller in self.policy.queue._callers.items()
            if not caller.is_held_back(self.now)
            and any(flow.waiting and flow.in_flight < flow.max_concurrent for flow in caller.flows.values())
        }

    @rule()
    def step(self):
        callers = self.policy.queue._callers
        cautious = {
            name: self.now >= caller.paused_until for name, caller in callers.items() if caller.cautious
        }
        step = self.policy.step(self.now)
        went = Counter(self.caller_of[ticket] for ticket in step.admitted)
        assert [] == [name for name, may_probe in cautious.items() if went[name] > may_probe]
        used, in_flight = self.used(), self.in_flight()
        for ticket in step.admitted:
            self.waiting.remove(ticket)
            self.unanswered.add(ticket)
            self.admitted[self.caller_of[ticket]] += 1
        if step.admitted:
            assert self.used() <= self.places
            assert self.in_flight() <= self.slots
        assert (used, in_flight) <= (self.used(), self.in_flight())
        self.next_chance = step.next_chance
        assert self.next_chance > self.now
        self.nothing_idles()
        self.turns_are_taken()

    def nothing_idles(self):
        """A free slot with a free place is used at once; the last of a window may be paced."""
        if not self.has_reserve and self.in_flight() < self.slots and self.used() < self.places:
            assert set() == self.may_go()

    @invariant()
    def turns_are_taken(self):
        """Callers who wait together are admitted in turn. Unless the window is paced: then single calls go before
        batches, of any caller, and the count begins anew."""
        if self.has_reserve:
            self.together = {}
            return
        waiting, ahead = self.may_go(), {}
        for pair in combinations(sorted(waiting), 2):
            lead = self.admitted[pair[0]] - self.admitted[pair[1]]
            ahead[pair] = self.together.get(pair, lead)
            assert abs(lead - ahead[pair]) <= 2
        self.together = ahead

    @rule(caller=CALLERS, batch=BATCHES, bound=BOUNDS, count=st.integers(1, 12))
    def enqueue(self, caller, batch, bound, count):
        tickets = range(len(self.caller_of), len(self.caller_of) + count)
        self.caller_of += [caller] * count
        self.waiting |= set(tickets)
        self.policy.enqueue(tickets, caller, batch=batch, max_concurrent=bound)

    @rule(caller=CALLERS, batch=BATCHES)
    def adopt(self, caller, batch):
        self.running.add(len(self.caller_of))
        self.policy.adopt(len(self.caller_of), caller, batch=batch, now=self.now)
        self.caller_of.append(caller)

    @rule(ago=st.lists(st.integers(-30, 70), max_size=3))
    def count(self, ago):
        self.spent += [self.now + WINDOW - seconds for seconds in ago]
        self.policy.count(ago, self.now)

    @precondition(lambda self: self.waiting or self.unanswered)
    @rule(data=st.data())
    def withdraw(self, data):
        """As one that is cancelled, in line or just admitted."""
        ticket = data.draw(st.sampled_from(sorted(self.waiting | self.unanswered)))
        self.waiting.discard(ticket)
        self.unanswered.discard(ticket)
        self.policy.withdraw(ticket)

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def answer(self, data):
        ticket = data.draw(st.sampled_from(sorted(self.unanswered)))
        self.unanswered.remove(ticket)
        self.running.add(ticket)
        self.spent.append(self.now + WINDOW)
        self.policy.answered(ticket, self.now)

    @precondition(lambda self: self.unanswered or self.running)
    @rule(data=st.data())
    def release(self, data):
        ticket = data.draw(st.sampled_from(sorted(self.unanswered | self.running)))
        if ticket in self.unanswered:
            self.unanswered.remove(ticket)
            self.spent.append(self.now + WINDOW)
        self.running.discard(ticket)
        self.policy.release(ticket, self.now)

    @rule()
    def leave_all(self):
        """Unsent, so that no window holds up the next."""
        for ticket in self.unanswered:
            self.policy.withdraw(ticket)
        self.unanswered = set()

    @rule(caller=CALLERS, batch=BATCHES)
    def dismiss(self, caller, batch):
        gone = set(self.policy.dismiss(caller, batch))
        assert gone <= self.waiting
        self.waiting -= gone

    @rule(slots=SLOTS, places=PLACES)
    def configure(self, slots, places):
        self.slots, self.places = slots, places
        self.has_reserve = self.policy._reserve_share * places >= 1
        self.policy.configure(self.now, concurrent_limit=slots, requests_per_minute=places)

    @rule(seconds=st.integers(1, 70))
    def pass_time(self, seconds):
        """Time alone admits nothing before the moment that a step names, and the driver steps at each of those."""
        end = self.now + seconds
        self.step()
        while self.next_chance <= end:
            before, self.now = self.now, self.next_chance
            assert [] == self.policy.step((before + self.now) / 2).admitted
            self.step()
        self.now = end
        assert [] == self.policy.step(end).admitted

    @precondition(lambda self: not self.has_reserve)
    @rule()
    def a_copy_admits_as_many(self):
        self.step()
        seen = self.policy.snapshot(self.now)
        if seen.paused_until or any(each.cautious for each in self.policy.queue._callers.values()):
            return
        copy = Policy(
            concurrent_limit=self.slots + 2, requests_per_minute=self.places + 3, durations=Durations()
        )
        copy.restore(seen, unanswered=math.inf)
        for number, line in enumerate(seen.lines):
            for running in range(line.in_flight):
                copy.adopt((number, "runs", running), line.caller, batch=line.batch, now=self.now)
            waiting = [(number, "waits", waiting) for waiting in range(line.waiting)]
            copy.enqueue(waiting, line.caller, batch=line.batch, max_concurrent=line.max_concurrent)
        self.configure(self.slots + 2, self.places + 3)
        if not self.has_reserve:
            before = len(self.waiting)
            admitted = copy.step(self.now).admitted
            self.step()
            assert len(admitted) == before - len(self.waiting)

    @invariant()
    def the_policy_counts_as_the_model_does(self):
        assert self.in_flight() == self.policy.in_flight
        assert self.used() == self.policy.window.used(self.now)
        assert len(self.waiting) == len(self.policy.queue)

    def teardown(self):
        """Given time, all that is left is admitted, and nothing is left behind."""
        if not hasattr(self, "policy"):
            return
        for _ in range(len(self.waiting) + 1):
            for ticket in self.unanswered | self.running:
                self.policy.release(ticket, self.now)
            self.unanswered, self.running = set(), set()
            self.now += 10_000
            self.step()
            if not (self.waiting or self.in_flight()):
                break
        assert (set(), set(), set()) == (self.waiting, self.unanswered, self.running)
        assert (0, 0) == (self.policy.in_flight, len(self.policy.queue))
        assert 0 == self.policy.window.used(self.now) == self.policy._reserve.used(self.now)


class AnyHistoryWithPauses(AnyHistory):
    @rule(caller=CALLERS, seconds=st.integers(1, 90))
    def pause(self, caller, seconds):
        self.policy.pause(caller, self.now + seconds)

    @rule(caller=CALLERS, exhausted_for=st.sampled_from([0, 0, 10]))
    def proceed(self, caller, exhausted_for):
        self.policy.proceed(caller, self.now, exhausted_for=exhausted_for)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistoryWithPauses = AnyHistoryWithPauses.TestCase
TestAnyHistory.settings = TestAnyHistoryWithPauses.settings = settings(
    max_examples=250, stateful_step_count=40, deadline=None, derandomize=True
)
