"""Properties of admission under random histories: the policy alone, without an event loop, at any moment.

A rule takes 0.4 ms on one core, most of it in Hypothesis: 2,700 rules a second, or a hundred thousand in 40 s.
"""

import math
from collections import Counter, deque
from itertools import combinations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from admission.durations import Durations
from admission.estimates import Estimates
from admission.own_limits import OwnLimits
from admission.policy import Policy
from admission.sliding_window import WINDOW

pytestmark = pytest.mark.slow

CALLERS = st.sampled_from(["ann", "bob", "cid"])
BATCHES = st.sampled_from([None, None, "one", "two"])
SLOTS = st.integers(1, 8)
PLACES = st.integers(1, 12) | st.just(1000)
BOUNDS = st.none() | st.integers(1, 3)
OWN_LIMITS = st.tuples(st.none() | st.integers(1, 4), st.none() | st.integers(1, 6))
NAMES = st.sampled_from([None, "gpu", "db"])
SEMAPHORES = st.sampled_from(["gpu", "db"])
VERSIONS = ["cold", "colder"]
OF_BATCH = {"one": None, "two": "gpu"}
"""The semaphore that each batch names. Single calls name any. Only `AnyHistoryWithSemaphores` has semaphores."""


class AnyHistory(RuleBasedStateMachine):
    """Tickets are numbers. Seconds are whole, so that their sums are exact. Beside the policy, a model counts which
    tickets have a slot and which places still count."""

    @initialize(slots=SLOTS, places=PLACES, reserve=st.sampled_from([0.0, 0.5]))
    def open(self, slots, places, reserve):
        self.open_policy(slots, places, reserve)

    def open_policy(self, slots, places, reserve):
        self.policy = Policy(
            concurrent_limit=slots,
            requests_per_minute=places,
            interactive_reserve=reserve,
            durations=Durations(),
        )
        self.now = 0.0
        self.slots, self.places, self.share = slots, places, reserve
        self.caller_of: list[str] = []
        self.batch_of: list[str | None] = []
        self.semaphore_of: list[str | None] = []
        self.version_of: list[str | None] = []
        """The version that may have to boot for each ticket."""
        self.next_version: str | None = None
        """That of the next tickets."""
        self.started: set[int] = set()
        self.came: dict[tuple[str, bool], float] = {}
        """When each caller last added tickets: of a batch (False) or single calls (True)."""
        self.durations_held: deque[float] = deque(maxlen=256)
        self.since: dict[int, float] = {}
        self.waiting: set[int] = set()
        self.unanswered: set[int] = set()
        self.in_doubt: set[int] = set()
        """Those of `unanswered` whose answer is lost."""
        self.last_sent = {"lost": -math.inf, "created": -math.inf, "answered": -math.inf}
        """When the latest lost creation, the latest answered creation, and the latest answered request of any kind were
        sent."""
        self.running: set[int] = set()
        """Answered tickets that still hold their slots."""
        self.spent: list[float] = []
        """When each answered place is free again."""
        self.expected: dict[int, float] = {}
        self.admitted: Counter[str] = Counter()
        self.together: dict[tuple[str, str], int] = {}
        self.next_chance = math.inf

    def used(self) -> int:
        return len(self.unanswered) + sum(free_at > self.now for free_at in self.spent)

    def in_flight(self) -> int:
        return len(self.unanswered) + len(self.running)

    def state(self) -> str:
        last = self.last_sent
        if last["lost"] == -math.inf or last["lost"] < last["created"]:
            return "open"
        return "stalled" if self.in_doubt and last["lost"] >= last["answered"] else "cautious"

    def most_in_a_stall(self) -> float:
        """How many creations a stall admits now."""
        if self.state() == "open":
            return math.inf
        return self.state() == "cautious" and not self.unanswered - self.in_doubt

    def may_go(self) -> set[str]:
        """The callers with waiting tickets that only the limits hold back."""
        return {
            name
            for name, caller in self.policy.queue.callers.items()
            if not caller.is_held_back(self.now)
            and self.has_own_room(name)
            and any(self.is_open(flow) for flow in caller.flows.values())
        }

    def has_own_room(self, caller: str) -> bool:  # noqa: ARG002
        """Whether no own limit of this caller holds its tickets back."""
        return True

    def is_open(self, flow) -> bool:
        """Whether it has waiting tickets that neither its bound nor its semaphore nor a boot holds back."""
        has_permit = flow.semaphore is None or flow.semaphore.room(self.now) > 0
        return any(map(self.has_room, flow.waiting)) and flow.in_flight < flow.max_concurrent and has_permit

    def booting(self, version: str) -> int:
        """How many tickets of a version hold a slot and have not started."""
        held = self.unanswered | self.running
        return sum(self.version_of[each] == version and each not in self.started for each in held)

    def most_booting(self) -> int:
        return max(1, self.slots // 2)

    def has_room(self, ticket: int) -> bool:
        """Whether no boot holds this ticket back."""
        version = self.version_of[ticket]
        return version is None or self.booting(version) < self.most_booting()

    def flows(self):
        return [flow for caller in self.policy.queue.callers.values() for flow in caller.flows.values()]

    def flows_that_may_go(self) -> list[tuple[str, str | None]]:
        """The same by caller and batch."""
        return [
            (name, flow.batch)
            for name, caller in self.policy.queue.callers.items()
            if not caller.is_held_back(self.now) and self.has_own_room(name)
            for flow in caller.flows.values()
            if self.is_open(flow)
        ]

    def holds(self, caller: str, batch: str | None) -> int:
        """How many slots count as held: for a batch all slots of its caller, for single calls only their own."""
        mine = [each for each in self.unanswered | self.running if self.caller_of[each] == caller]
        return len(mine) if batch else sum(self.batch_of[each] is None for each in mine)

    def others_came(self, caller: str, batch: str | None) -> bool:
        """Whether another caller, or a single call beside this batch, came within ten minutes."""
        return any(
            self.now < at + 600 and (name != caller or (batch is not None and is_single))
            for (name, is_single), at in self.came.items()
        )

    def kept(self) -> int:
        """The number of slots that are kept for flows that hold none."""
        is_long = bool(self.durations_held) and sum(self.durations_held) / len(self.durations_held) > 30
        return max(1, self.slots // 10) if is_long and self.slots >= 3 else 0

    def has_singles(self) -> bool:
        return any(self.now < at + 600 for (_, is_single), at in self.came.items() if is_single)

    @rule()
    def step(self):
        callers = self.policy.queue.callers
        cautious = {
            name: self.now >= caller.paused_until for name, caller in callers.items() if caller.cautious
        }
        most = self.most_in_a_stall()
        step = self.policy.step(self.now)
        assert len(step.admitted) <= most
        went = Counter(self.caller_of[ticket] for ticket in step.admitted)
        assert [] == [name for name, may_probe in cautious.items() if went[name] > may_probe]
        used, in_flight = self.used(), self.in_flight()
        held_much = self.admit(step.admitted)
        if held_much and not self.share:
            self.flows_that_hold_less_went_first()
        if step.admitted:
            assert self.used() <= self.places
            assert self.in_flight() <= self.slots
        assert (used, in_flight) <= (self.used(), self.in_flight())
        self.next_chance = step.next_chance
        assert self.next_chance > self.now
        self.nothing_idles()
        self.turns_are_taken()

    def nothing_idles(self):
        """A free slot with a free place is used at once, with three exceptions. The last slots are kept for flows that
        hold none while other callers are active and predictions are long. Batches take the reserve at its pace. A stall
        admits nothing."""
        if not self.most_in_a_stall() or self.in_flight() >= self.slots or self.used() >= self.places:
            return
        for caller, batch in self.flows_that_may_go():
            assert self.is_kept_from(caller, batch) or (batch is not None and self.is_paced())

    def is_kept_from(self, caller: str, batch: str | None) -> bool:
        """Whether the free slots are kept from this flow."""
        return (
            self.slots - self.in_flight() <= self.kept()
            and self.holds(caller, batch) > 0
            and self.others_came(caller, batch)
        )

    def is_paced(self) -> bool:
        """Whether batches may have to wait for the pace of the reserve. Three conditions must hold: there is a reserve,
        since a single call came or more than ten windows waited; it has a place left; and its last place was taken less
        than one pace ago."""
        reserve = self.policy.snapshot(self.now).reserve
        size = self.places if self.has_singles() else min(25, self.places // 3)
        return (
            self.share > 0
            and (self.has_singles() or reserve.is_long)
            and self.places - self.used() <= size
            and self.now < reserve.paced_until
        )

    @invariant()
    def turns_are_taken(self):
        """Callers who wait together are admitted in turn. The count restarts where another rule decides: if batches or
        slots wait for others, or if one of the two callers holds half of the slots."""
        if self.share or self.kept():
            self.together = {}
            return
        waiting, ahead = (
            {caller for caller in self.may_go() if self.holds(caller, "all") * 2 < self.slots},
            {},
        )
        for pair in combinations(sorted(waiting), 2):
            lead = self.admitted[pair[0]] - self.admitted[pair[1]]
            ahead[pair] = self.together.get(pair, lead)
            assert abs(lead - ahead[pair]) <= 2
        self.together = ahead

    def admit(self, admitted: list[int]) -> bool:
        """Count the admitted tickets. Returns whether one of their flows already held at least half of the slots."""
        held_much = False
        self.latest = [(self.caller_of[ticket], self.batch_of[ticket]) for ticket in admitted]
        for ticket in admitted:
            flow = self.caller_of[ticket], self.batch_of[ticket]
            assert not self.is_kept_from(*flow)
            held_much |= 2 * self.holds(*flow) >= self.slots
            self.waiting.remove(ticket)
            self.unanswered.add(ticket)
            self.since[ticket] = self.now
            self.admitted[self.caller_of[ticket]] += 1
        for version in {self.version_of[ticket] for ticket in admitted} - {None}:
            assert self.booting(version) <= self.most_booting()
        return held_much

    def flows_that_hold_less_went_first(self):
        """A ticket was admitted whose flow holds half of the slots: no flow that holds less and may go is waiting."""
        for flow in self.flows_that_may_go():
            assert 2 * self.holds(*flow) >= self.slots or self.is_kept_from(*flow)

    @rule(caller=CALLERS, batch=BATCHES, bound=BOUNDS, count=st.integers(1, 12), name=NAMES)
    def enqueue(self, caller, batch, bound, count, name):
        tickets = range(len(self.caller_of), len(self.caller_of) + count)
        self.caller_of += [caller] * count
        self.batch_of += [batch] * count
        self.came[caller, batch is None] = self.now
        self.waiting |= set(tickets)
        name = OF_BATCH.get(batch, name)
        self.semaphore_of += [name] * count
        self.version_of += [self.next_version] * count
        limits = {"batch": batch, "max_concurrent": bound, "semaphore": name}
        self.policy.enqueue(tickets, caller, boots=self.next_version, **limits)

    @rule(caller=CALLERS, batch=BATCHES, name=NAMES)
    def adopt(self, caller, batch, name):
        self.running.add(len(self.caller_of))
        name = OF_BATCH.get(batch, name)
        self.semaphore_of.append(name)
        self.version_of.append(self.next_version)
        limits = {"batch": batch, "semaphore": name, "boots": self.next_version}
        self.policy.adopt(len(self.caller_of), caller, now=self.now, **limits)
        self.since[len(self.caller_of)] = self.now
        self.caller_of.append(caller)
        self.batch_of.append(batch)

    @rule(seconds=st.integers(-30, 600))
    def expect(self, seconds):
        name = len(self.expected)
        self.expected[name] = self.now + seconds + WINDOW
        self.spent.append(self.expected[name])
        self.policy.expect(name, self.now + seconds)

    @rule(caller=CALLERS, batch=BATCHES, ago=st.integers(0, 90), data=st.data())
    def adopt_in_doubt(self, caller, batch, ago, data):
        ticket, sent = len(self.caller_of), self.now - ago
        name = data.draw(st.none() | st.sampled_from(sorted(self.expected)) if self.expected else st.none())
        if name is not None and self.expected[name] in self.spent:
            self.spent.remove(self.expected[name])
            self.expected[name] = math.inf  # replaced once
        self.unanswered.add(ticket)
        self.in_doubt.add(ticket)
        self.note("lost", sent)
        semaphore = OF_BATCH.get(batch)
        self.semaphore_of.append(semaphore)
        self.version_of.append(self.next_version)
        limits = {"batch": batch, "semaphore": semaphore, "boots": self.next_version}
        self.policy.adopt(ticket, caller, now=self.now, lost=sent, expected=name, **limits)
        self.since[ticket] = self.now
        self.caller_of.append(caller)
        self.batch_of.append(batch)

    def note(self, what, sent):
        self.last_sent[what] = max(self.last_sent[what], sent)

    @precondition(lambda self: self.unanswered - self.in_doubt)
    @rule(data=st.data())
    def lose(self, data):
        ticket = data.draw(st.sampled_from(sorted(self.unanswered - self.in_doubt)))
        self.in_doubt.add(ticket)
        self.note("lost", self.since[ticket])
        self.policy.lost(ticket)

    @rule(ago=st.integers(0, 30))
    def answer_another_request(self, ago):
        self.note("answered", self.now - ago)
        self.policy.stall.answered(self.now - ago)

    @rule(ago=st.lists(st.integers(-30, 70), max_size=3))
    def count(self, ago):
        self.spent += [self.now + WINDOW - seconds for seconds in ago]
        self.policy.window.count(ago, self.now)

    @precondition(lambda self: self.waiting or self.unanswered - self.in_doubt)
    @rule(data=st.data())
    def withdraw(self, data):
        """Withdraw a ticket, as if it was cancelled while waiting or just after its admission."""
        ticket = data.draw(st.sampled_from(sorted(self.waiting | self.unanswered - self.in_doubt)))
        self.waiting.discard(ticket)
        self.unanswered.discard(ticket)
        self.policy.withdraw(ticket)

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def answer(self, data):
        """For a ticket in doubt this is the result of a search, which is no answer of the upstream."""
        ticket = data.draw(st.sampled_from(sorted(self.unanswered)))
        if ticket not in self.in_doubt:
            self.note("created", self.since[ticket])
            self.note("answered", self.since[ticket])
        self.in_doubt.discard(ticket)
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
            self.in_doubt.discard(ticket)
            self.spent.append(self.now + WINDOW)
        self.running.discard(ticket)
        self.durations_held.append(self.now - self.since[ticket])
        self.policy.release(ticket, self.now)

    @rule()
    def leave_all(self):
        """Nothing was sent, so no window delays the next admission."""
        for ticket in self.unanswered - self.in_doubt:
            self.policy.withdraw(ticket)
        self.unanswered = set(self.in_doubt)

    @rule(caller=CALLERS, batch=BATCHES)
    def dismiss(self, caller, batch):
        gone = set(self.policy.queue.clear(caller, batch))
        assert gone <= self.waiting
        self.waiting -= gone

    @rule(slots=SLOTS, places=PLACES)
    def configure(self, slots, places):
        self.slots, self.places = slots, places
        self.policy.configure(self.now, concurrent_limit=slots, requests_per_minute=places)

    @rule(seconds=st.integers(1, 70) | st.just(600))
    def pass_time(self, seconds):
        """Time alone admits nothing before the moment that a step returns. The driver steps at each such moment."""
        end = self.now + seconds
        self.step()
        while self.next_chance <= end:
            before, self.now = self.now, self.next_chance
            assert [] == self.policy.step((before + self.now) / 2).admitted
            self.step()
        self.now = end
        assert [] == self.policy.step(end).admitted

    @rule()
    def a_copy_admits_the_same(self):
        self.step()
        seen = self.policy.snapshot(self.now)
        cautious = any(each.cautious for each in self.policy.queue.callers.values())
        is_mixed = any(len({self.version_of[each] for each in flow.waiting}) > 1 for flow in self.flows())
        if seen.paused_until or cautious or self.state() == "cautious" or is_mixed:
            return  # a snapshot does not tell the order within a flow
        durations = Durations()
        for held in seen.held:
            durations.note_slot(held)
        copy = Policy(
            concurrent_limit=self.slots,
            requests_per_minute=self.places,
            interactive_reserve=seen.reserve.share,
            durations=durations,
        )
        for number, line in enumerate(seen.flows):
            for running, version in enumerate(line.running()):
                ticket = (number, "runs", running)
                copy.adopt(ticket, line.caller, batch=line.batch, boots=version, now=self.now)
            version = next(iter(line.queued()), None)
            waiting = [(number, "waits", waiting) for waiting in range(line.waiting)]
            limits = {"batch": line.batch, "max_concurrent": line.max_concurrent}
            copy.enqueue(waiting, line.caller, boots=version, **limits)
        copy.restore(seen, unanswered=math.inf)
        newcomer = f"newcomer {len(self.caller_of)}"
        copy.enqueue([(len(seen.flows), 0), (len(seen.flows), 1)], newcomer, boots=self.next_version)
        self.enqueue(newcomer, None, None, 2, None)
        flows = [*((flow.caller, flow.batch) for flow in seen.flows), (newcomer, None)]
        for more in (1, 2):  # some turns end in the first step
            copy.configure(self.now, concurrent_limit=self.slots + more, requests_per_minute=self.places + 3)
            self.configure(self.slots + more, self.places + 3)
            self.step()
            assert [flows[ticket[0]] for ticket in copy.step(self.now).admitted] == self.latest

    @invariant()
    def the_policy_counts_as_the_model_does(self):
        assert self.in_flight() == self.policy.in_flight
        assert self.used() == self.policy.window.used(self.now)
        assert len(self.waiting) == len(self.policy.queue)
        assert self.in_doubt == self.policy.stall.in_doubt
        for version in VERSIONS:
            boot = self.policy.boots.find(version)
            waiting = sum(self.version_of[each] == version for each in self.waiting)
            found = (0, 0) if boot is None else (boot.booting, boot.waiting)
            assert (self.booting(version), waiting) == found

    def release_all(self):
        for ticket in self.unanswered | self.running:
            self.durations_held.append(self.now - self.since[ticket])
            self.policy.release(ticket, self.now)
        self.unanswered, self.running, self.in_doubt = set(), set(), set()

    def teardown(self):
        """After enough time, every remaining ticket is admitted, and nothing is left behind."""
        if not hasattr(self, "policy"):
            return
        self.step()
        for _ in range(len(self.waiting) + 1):
            self.release_all()
            self.now += 10_000
            self.step()
            if not (self.waiting or self.in_flight()):
                break
        assert (set(), set(), set()) == (self.waiting, self.unanswered, self.running)
        assert (0, 0) == (self.policy.in_flight, len(self.policy.queue))
        reserve = self.policy.snapshot(self.now).reserve
        assert 0 == self.policy.window.used(self.now)
        assert [] == [at for at in (*reserve.places, *reserve.single_places) if at > self.now]


class AnyHistoryWithPauses(AnyHistory):
    @rule(caller=CALLERS, seconds=st.integers(1, 90))
    def pause(self, caller, seconds):
        self.policy.queue.pause(caller, self.now + seconds)

    @rule(caller=CALLERS, exhausted_for=st.sampled_from([0, 0, 10]))
    def proceed(self, caller, exhausted_for):
        self.policy.proceed(caller, self.now, exhausted_for=exhausted_for)


class AnyHistoryWithBoots(AnyHistoryWithPauses):
    """Predictions of some versions have to wait for a boot, and start or end later."""

    @rule(version=st.sampled_from([None, *VERSIONS]))
    def name_a_version(self, version):
        self.next_version = version

    @precondition(lambda self: any(self.booting(version) for version in VERSIONS))
    @rule(data=st.data())
    def start(self, data):
        held = sorted((self.unanswered | self.running) - self.started)
        ticket = data.draw(st.sampled_from([each for each in held if self.version_of[each] is not None]))
        self.started.add(ticket)
        self.policy.started(ticket, self.now)

    @rule(caller=CALLERS, batch=BATCHES, ahead=st.integers(0, 5), version=st.sampled_from(VERSIONS))
    def estimate(self, caller, batch, ahead, version):
        estimates = Estimates(self.policy, lambda: self.now)
        assert 0 <= estimates.estimated_wait(caller, batch, ahead, usual=5.0, boots=version)


class AnyHistoryWithOwnLimits(AnyHistoryWithBoots):
    """Callers get own limits, lose them and get others. Admissions before a limit of admissions was set have no
    place in it."""

    @initialize(
        slots=st.integers(2, 8),
        places=st.sampled_from([6, 12, 1000]),
        reserve=st.sampled_from([0.0, 0.5]),
        ann=OWN_LIMITS,
        bob=OWN_LIMITS,
        count=st.integers(1, 12),
    )
    def open(self, slots, places, reserve, ann, bob, count):
        self.open_policy(slots, places, reserve)
        self.limit_caller("ann", *ann)
        self.limit_caller("bob", *bob)
        self.enqueue("ann", None, None, count, None)

    def open_policy(self, slots, places, reserve):
        super().open_policy(slots, places, reserve)
        self.own: dict[str, OwnLimits] = {}
        self.own_places: dict[str, dict[int | str, float]] = {}
        """When each place of a caller with a limit of admissions is free again, by its ticket."""

    def own_used(self, caller: str) -> int:
        return sum(free_at > self.now for free_at in self.own_places[caller].values())

    def own_in_flight(self, caller: str) -> int:
        return sum(self.caller_of[each] == caller for each in self.unanswered | self.running)

    def has_own_room(self, caller):
        own = self.own.get(caller, OwnLimits())
        has_slot = own.max_concurrent is None or self.own_in_flight(caller) < own.max_concurrent
        return has_slot and (own.per_minute is None or self.own_used(caller) < own.per_minute)

    def admit(self, admitted):
        held_much = super().admit(admitted)
        for ticket in admitted:
            if (caller := self.caller_of[ticket]) in self.own_places:
                self.own_places[caller][ticket] = math.inf
        for caller in {self.caller_of[ticket] for ticket in admitted} & self.own.keys():
            own = self.own[caller]
            assert own.max_concurrent is None or self.own_in_flight(caller) <= own.max_concurrent
            assert own.per_minute is None or self.own_used(caller) <= own.per_minute
        return held_much

    @rule(caller=CALLERS, limits=OWN_LIMITS)
    def change_the_limits(self, caller, limits):
        self.limit_caller(caller, *limits)

    def limit_caller(self, caller, most, places):
        self.own[caller] = OwnLimits(most, places)
        if places is None:
            self.own_places.pop(caller, None)
        else:
            self.own_places.setdefault(caller, {})
        self.policy.limit_caller(caller, max_concurrent=most, per_minute=places)

    @rule(caller=CALLERS)
    def lift_the_limits(self, caller):
        self.limit_caller(caller, None, None)

    @rule(caller=CALLERS, ago=st.lists(st.integers(-30, 70), max_size=3))
    def count_of(self, caller, ago):
        free_at = [self.now + WINDOW - seconds for seconds in ago]
        self.policy.count(ago, self.now, caller)
        if caller in self.own_places:
            first = len(self.spent)
            self.own_places[caller] |= {f"counted {first + at}": each for at, each in enumerate(free_at)}
        self.spent += free_at

    def adopt_in_doubt(self, caller, batch, ago, data):
        """A creation that was adopted takes a place of its caller."""

    @rule(caller=CALLERS, ago=st.integers(0, 90))
    def adopt_a_lost_one(self, caller, ago):
        ticket, sent = len(self.caller_of), self.now - ago
        self.unanswered.add(ticket)
        self.in_doubt.add(ticket)
        self.note("lost", sent)
        self.semaphore_of.append(None)
        self.version_of.append(None)
        self.policy.adopt(ticket, caller, now=self.now, lost=sent)
        self.since[ticket] = self.now
        self.caller_of.append(caller)
        self.batch_of.append(None)
        if caller in self.own_places:
            self.own_places[caller][ticket] = math.inf

    def leave(self, ticket: int, free_at: float | None) -> None:
        """Its place is free at this moment, or now if its creation was not sent."""
        for places in self.own_places.values():
            if places.get(ticket) == math.inf:
                places[ticket] = self.now if free_at is None else free_at

    def watch(self, ways, act) -> None:
        """Do something, and see which tickets have been answered, and which have gone without being sent."""
        before = set(self.unanswered)
        act()
        for ticket in before - self.unanswered:
            self.leave(ticket, self.now + WINDOW if ways == "sent" else None)

    @precondition(lambda self: self.waiting or self.unanswered - self.in_doubt)
    @rule(data=st.data())
    def withdraw(self, data):
        self.watch("unsent", lambda: super(AnyHistoryWithOwnLimits, self).withdraw(data))

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def answer(self, data):
        self.watch("sent", lambda: super(AnyHistoryWithOwnLimits, self).answer(data))

    @precondition(lambda self: self.unanswered or self.running)
    @rule(data=st.data())
    def release(self, data):
        self.watch("sent", lambda: super(AnyHistoryWithOwnLimits, self).release(data))

    @rule(seconds=st.integers(1, 130))
    def answer_all_and_wait(self, seconds):
        """Each gets its answer now, and ends later."""
        for ticket in self.unanswered - self.in_doubt:
            self.note("created", self.since[ticket])
            self.note("answered", self.since[ticket])
            self.running.add(ticket)
            self.spent.append(self.now + WINDOW)
            self.policy.answered(ticket, self.now)
            self.leave(ticket, self.now + WINDOW)
        self.unanswered = set(self.in_doubt)
        self.pass_time(seconds)

    @rule()
    def leave_all(self):
        self.watch("unsent", super().leave_all)

    @invariant()
    def own_places_are_counted_as_the_model_does(self):
        for caller in self.own_places if hasattr(self, "own_places") else ():
            found = self.policy.queue.callers.get(caller)
            used = 0 if found is None else found.window.used(self.now)
            assert self.own_used(caller) == used

    @rule(caller=CALLERS, batch=BATCHES, ahead=st.integers(0, 5), name=NAMES)
    def estimate(self, caller, batch, ahead, name):
        line = caller, batch, ahead, OF_BATCH.get(batch, name)
        estimates = Estimates(self.policy, lambda: self.now)
        assert ahead + 1 <= estimates.queue_position(*line) <= ahead + 1 + len(self.waiting)
        assert 0 <= estimates.estimated_wait(*line, usual=5.0)
        assert 0 <= estimates.seconds_to_admit(caller, ahead + 1)

    def release_all(self):
        self.watch("sent", super().release_all)


class AnyHistoryWithSemaphores(AnyHistoryWithBoots):
    """Tickets and other services hold permits. Their limits change. Some predictions have to wait for a boot."""

    @initialize(
        slots=SLOTS,
        places=PLACES,
        reserve=st.sampled_from([0.0, 0.5]),
        gpu=st.integers(1, 3),
        db=st.integers(1, 3),
    )
    def open(self, slots, places, reserve, gpu, db):
        self.open_policy(slots, places, reserve)
        self.limits = {"gpu": gpu, "db": db}
        self.leases: dict[str, set[str]] = {"gpu": set(), "db": set()}
        for name, limit in self.limits.items():
            self.policy.semaphores.set_limit(name, limit)

    def held(self, name) -> int:
        return sum(self.semaphore_of[each] == name for each in self.unanswered | self.running)

    def admit(self, admitted):
        held_much = super().admit(admitted)
        for name in {self.semaphore_of[each] for each in admitted} - {None}:
            assert self.held(name) + len(self.leases[name]) <= self.limits[name]
        return held_much

    @rule(name=SEMAPHORES, limit=st.integers(1, 4))
    def set_limit(self, name, limit):
        self.limits[name] = limit
        self.policy.semaphores.set_limit(name, limit)

    @rule(name=SEMAPHORES, seconds=st.integers(1, 90))
    def lease(self, name, seconds):
        self.step()  # as the gate does before each lease
        free = self.limits[name] - self.held(name) - len(self.leases[name])
        waits = any(self.semaphore_of[each] == name for each in self.waiting)
        lease = f"lease {len(self.caller_of)} {self.now} {len(self.leases[name])}"
        semaphore = self.policy.semaphores.find(name)
        if lease in semaphore.leases:
            return
        if semaphore.lease(lease, self.now + seconds, self.now):
            assert free > 0
            self.leases[name].add(lease)
        else:
            assert free <= 0 or (free == 1 and waits)
            assert 0 <= semaphore.retry_after(self.now, mean_held=self.policy.durations.mean_slot()) <= 25

    @precondition(lambda self: any(self.leases.values()))
    @rule(data=st.data())
    def end_lease(self, data):
        name = data.draw(st.sampled_from(sorted(name for name in self.leases if self.leases[name])))
        lease = data.draw(st.sampled_from(sorted(self.leases[name])))
        self.leases[name].remove(lease)
        del self.policy.semaphores.find(name).leases[lease]

    @rule(caller=CALLERS, batch=BATCHES, ahead=st.integers(0, 5), name=NAMES)
    def estimate(self, caller, batch, ahead, name):
        name = OF_BATCH.get(batch, name)
        line = caller, batch, ahead, name
        estimates = Estimates(self.policy, lambda: self.now)
        place = estimates.queue_position(*line)
        assert ahead + 1 <= place <= ahead + 1 + len(self.waiting)
        assert 0 <= estimates.estimated_wait(*line, usual=5.0)

    @invariant()
    def permits_are_counted_as_the_model_does(self):
        for name in self.limits if hasattr(self, "leases") else ():
            seen = self.policy.semaphores.find(name).snapshot()
            waiting = sum(self.semaphore_of[each] == name for each in self.waiting)
            assert (self.held(name), waiting, len(self.leases[name])) == (
                seen.held,
                seen.waiting,
                len(seen.lease_ends),
            )

    def a_copy_admits_the_same(self):
        """A copy does not know for which side a permit is kept."""

    def teardown(self):
        for name in self.limits if hasattr(self, "leases") else ():
            self.policy.semaphores.find(name).leases.clear()
            self.leases[name].clear()
        super().teardown()


TestAnyHistory = AnyHistory.TestCase
TestAnyHistoryWithPauses = AnyHistoryWithPauses.TestCase
TestAnyHistoryWithBoots = AnyHistoryWithBoots.TestCase
TestAnyHistoryWithSemaphores = AnyHistoryWithSemaphores.TestCase
TestAnyHistoryWithOwnLimits = AnyHistoryWithOwnLimits.TestCase
_CASES = (
    TestAnyHistory,
    TestAnyHistoryWithPauses,
    TestAnyHistoryWithBoots,
    TestAnyHistoryWithSemaphores,
    TestAnyHistoryWithOwnLimits,
)
for _case in _CASES:
    _case.settings = settings(max_examples=250, stateful_step_count=40, deadline=None, derandomize=True)
