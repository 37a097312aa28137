"""Properties of metered admission under random histories: no window is ever over, no slot leaks, no ticket starves."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from admission.durations import Durations
from admission.flows import UNPROVEN
from admission.metered.accounts import LONGEST_LOST, MONEY_WINDOW
from admission.metered.demand import Demand
from admission.metered.limits import MeteredLimits, ModelLimits
from admission.metered.policy import MeteredPolicy
from admission.semaphores import Semaphores
from admission.sliding_window import WINDOW

pytestmark = pytest.mark.slow

DAY = 1000.0
"""Seconds of a day here, so that many days end in a history."""

PAYERS = st.sampled_from([("ann", "ours"), ("bob", "ours"), ("cid", "cid"), (UNPROVEN, "x"), (UNPROVEN, "y")])
MODELS = st.sampled_from(["lite", "pro"])
BATCHES = st.sampled_from([None, None, ("one", 1), ("two", 3)])
SEMAPHORES = st.sampled_from([None, None, "gpu"])


def day_ends(moment):
    return (moment // DAY + 1) * DAY


@dataclass
class Call:
    """One ticket as the model of the test sees it, and until when each of its weights counts."""

    demand: Demand
    tokens: int
    money: int
    sent: float = math.inf
    state: str = "waiting"
    place_until: float = math.inf
    day_until: float = math.inf
    money_until: float = math.inf

    def answer(self, at):
        self.place_until = at + WINDOW
        self.day_until = day_ends(at)

    def end(self, at):
        self.money_until = at + MONEY_WINDOW

    def prove(self, at):
        """An answer to a later call proves that this lost one has arrived or never will. Weights that count no more by
        then stay free."""
        self.place_until = at + WINDOW if self.place_until > at else at
        self.day_until = day_ends(at) if self.day_until > at else at
        self.money_until = at + MONEY_WINDOW if self.money_until > at else at


class AnyHistory(RuleBasedStateMachine):
    """Tickets are numbers, and seconds are whole. Beside the policy, a model counts what each window has."""

    @initialize(
        slots=st.integers(1, 4),
        rpm=st.integers(1, 6),
        tpm=st.integers(50, 200),
        rpd=st.none() | st.integers(3, 12),
        money=st.integers(50, 400),
    )
    def open(self, slots, rpm, tpm, rpd, money):
        self.slots, self.money = slots, money
        self.limits = {"lite": ModelLimits(rpm, tpm, rpd), "pro": ModelLimits(2, 50, None)}
        self.semaphores = Semaphores()
        self.semaphores.set_limit("gpu", 2)
        self.policy = MeteredPolicy(
            concurrent_limit=slots,
            limits=MeteredLimits(self.limits, money),
            day_ends=day_ends,
            semaphores=self.semaphores,
            durations=Durations(),
        )
        self.now = 0.0
        self.calls: dict[int, Call] = {}

    # ── what happens

    @rule(payer=PAYERS, model=MODELS, tokens=st.integers(0, 50), money=st.integers(0, 50), batch=BATCHES,
          semaphore=SEMAPHORES, times=st.integers(1, 3))  # fmt: skip
    def enqueue(self, payer, model, tokens, money, batch, semaphore, times):
        caller, account = payer
        name, most = batch or (None, None)
        demand = Demand(
            caller=caller, account=account, model=model, tokens=tokens, micro_usd=money, batch=name,
            max_concurrent=most, semaphore=semaphore,
        )  # fmt: skip
        for _ in range(times):
            ticket = len(self.calls)
            self.calls[ticket] = Call(demand, tokens, money)
            self.policy.enqueue(ticket, demand)
        self.step()

    @rule(seconds=st.integers(0, 200))
    def wait(self, seconds):
        """Time passes, and the policy makes a step at each of its next chances."""
        until = self.now + seconds
        while self.next_chance <= until:
            self.now = self.next_chance
            self.step()
        self.now = until
        self.step()

    @rule(which=st.integers(0, 9), what=st.sampled_from(["sent", "cancelled"]))
    def admitted_goes_on(self, which, what):
        if (found := self.pick(which, "admitted")) is None:
            return
        ticket, call = found
        if what == "sent":
            call.state, call.sent = "sent", self.now
            self.policy.sent(ticket, self.now)
        else:
            self.calls.pop(ticket)
            self.calls[ticket] = Call(call.demand, 0, 0, state="gone")
            self.policy.withdraw(ticket)
        self.step()

    @rule(which=st.integers(0, 9), is_proof=st.booleans())
    def answered(self, which, is_proof):
        if (found := self.pick(which, "sent")) is None:
            return
        self.answer(*found)
        if is_proof:
            self.policy.proceed(found[0])
        self.step()

    def answer(self, ticket, call):
        call.state = "answered"
        call.answer(self.now)
        for each in self.calls.values():
            is_same = each.demand.account == call.demand.account
            if each.state == "lost" and is_same and each.sent < call.sent:
                each.state = "known"
                each.prove(self.now)
        self.policy.answered(ticket, self.now)

    @rule(which=st.integers(0, 9), part=st.integers(0, 100))
    def measured(self, which, part):
        if (found := self.pick(which, "answered")) is not None:
            ticket, call = found
            call.tokens = call.demand.tokens * part // 100
            self.policy.measured(ticket, call.tokens)
            self.step()

    @rule(which=st.integers(0, 9), part=st.none() | st.integers(0, 100))
    def ended(self, which, part):
        if (found := self.pick(which, "answered")) is not None:
            ticket, call = found
            call.state = "gone"
            call.end(self.now)
            if part is not None:
                call.money = call.demand.micro_usd * part // 100
                self.policy.settled(ticket, call.money, self.now)
            self.policy.release(ticket, self.now)
            self.step()

    @rule(which=st.integers(0, 9), is_reported=st.booleans())
    def lost(self, which, is_reported):
        if (found := self.pick(which, "sent")) is not None:
            ticket, call = found
            call.state = "lost"
            call.answer(self.now + LONGEST_LOST)
            call.end(self.now + LONGEST_LOST)
            (self.policy.lost if is_reported else self.policy.release)(ticket, self.now)
            self.step()

    @rule(which=st.integers(0, 50))
    def cancelled(self, which):
        if (found := self.pick(which, "waiting")) is not None:
            self.policy.withdraw(found[0])
            found[1].state = "gone"
            found[1].tokens = found[1].money = 0
            self.step()

    @rule(payer=PAYERS, model=st.none() | MODELS, seconds=st.integers(1, 300))
    def refused(self, payer, model, seconds):
        self.policy.close(payer[1], model, self.now + seconds, "minute")
        self.step()
        assert not any(
            self.calls[ticket].demand.account == payer[1] and model in (None, self.calls[ticket].demand.model)
            for ticket in self.new
        )

    @rule(caller=st.sampled_from(["ann", "bob", UNPROVEN]), most=st.none() | st.integers(1, 2),
          per_minute=st.none() | st.integers(1, 3))  # fmt: skip
    def limit_caller(self, caller, most, per_minute):
        self.policy.limit_caller(caller, max_concurrent=most, per_minute=per_minute)
        self.step()

    @rule(lease=st.booleans())
    def other_service(self, lease):
        gpu = self.semaphores.find("gpu")
        if lease:
            gpu.lease("theirs", self.now + 100, self.now)
        else:
            gpu.leases.pop("theirs", None)
        self.step()

    # ── what must hold

    next_chance = math.inf

    def step(self):
        step = self.policy.step(self.now)
        assert [] == step.refused
        assert step.next_chance > self.now
        self.next_chance = step.next_chance
        self.new = step.admitted
        for ticket in step.admitted:
            assert "waiting" == self.calls[ticket].state
            self.calls[ticket].state = "admitted"
            self.calls[ticket].sent = self.now
        if step.admitted:
            self.check_windows()

    def check_windows(self):
        """No window is over after an admission. (Here no limit is lowered, and no estimate is too low.)"""
        used = [each for each in self.calls.values() if each.state != "waiting"]
        for account in {each.demand.account for each in used}:
            ours = [each for each in used if each.demand.account == account]
            assert self.money >= sum(each.money for each in ours if each.money_until > self.now)
            for model, limits in self.limits.items():
                those = [each for each in ours if each.demand.model == model and not self.is_withdrawn(each)]
                assert limits.rpm >= sum(each.place_until > self.now for each in those)
                assert limits.tpm >= sum(each.tokens for each in those if each.place_until > self.now)
                assert (limits.rpd or math.inf) >= sum(each.day_until > self.now for each in those)

    @staticmethod
    def is_withdrawn(call):
        return call.state == "gone" and call.place_until == math.inf

    @invariant()
    def slots_and_bounds_hold(self):
        held = [each.demand for each in self.calls.values() if each.state in ("admitted", "sent", "answered")]
        for account in {each.account for each in held}:
            assert self.slots >= sum(each.account == account for each in held)
        assert self.slots >= sum(each.caller == UNPROVEN for each in held)
        assert 2 >= sum(each.semaphore is not None for each in held)
        for name, most in (("one", 1), ("two", 3)):
            for caller in {each.caller for each in held}:
                for account in {each.account for each in held}:
                    batch = (caller, account, name)
                    assert most >= sum((each.caller, each.account, each.batch) == batch for each in held)
        if hasattr(self, "policy"):
            assert len(held) == self.policy.in_flight
            assert sum(each.state == "waiting" for each in self.calls.values()) == self.policy.waiting

    def pick(self, which, state):
        found = [(ticket, call) for ticket, call in self.calls.items() if call.state == state]
        return found[which % len(found)] if found else None

    def teardown(self):
        """If every call ends, every ticket is admitted, and then the policy is empty."""
        if not hasattr(self, "policy"):
            return
        self.semaphores.find("gpu").leases.clear()
        self.step()
        while self.policy.waiting or self.policy.in_flight:
            if not self.finish_all():
                assert self.next_chance < math.inf, "a ticket starves"
                self.now = self.next_chance
            self.step()
        self.now += 2 * LONGEST_LOST + MONEY_WINDOW + DAY
        self.step()
        for account in self.policy.accounts.values():
            assert 0 == account.waiting == account.in_flight == account.money.window.used(self.now)
            for lane in account.lanes.values():
                windows = (lane.places, lane.tokens.window, lane.day)
                assert [0, 0, 0] == [each.used(self.now) for each in windows]
                assert (0, 0, None) == (lane.waiting, lane.in_flight, lane.tokens.next)
        assert {"gpu": (0, 0)} == {each.id: (each.held, each.waiting) for each in self.semaphores}
        assert [0, 0, 0] == [self.policy.held_by(each) for each in ("ann", "bob", UNPROVEN)]

    def finish_all(self):
        held = [
            ticket for ticket, call in self.calls.items() if call.state in ("admitted", "sent", "answered")
        ]
        for ticket in held:
            call = self.calls[ticket]
            if call.state != "answered":
                self.answer(ticket, call)
            call.end(self.now)
            call.state = "gone"
            self.policy.proceed(ticket)
            self.policy.release(ticket, self.now)
        return bool(held)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
