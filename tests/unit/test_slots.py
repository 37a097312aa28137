"""The last slots: one greedy caller and four polite ones, with predictions that hold a slot for minutes."""

from itertools import count

import pytest

from admission.durations import Durations
from admission.policy import Policy

POLITE = ("bob", "cid", "dan", "eve")


class Slots:
    """A policy whose window never binds. Tickets are (caller, number); each is answered at once."""

    def __init__(self, limit: int, *, held: float) -> None:
        durations = Durations()
        durations.note_slot(held)
        self.policy = Policy(
            concurrent_limit=limit, requests_per_minute=60_000, interactive_reserve=0.5, durations=durations
        )
        self.held = held
        self.now = 0.0
        self.running: list[tuple[str, int]] = []
        self.numbers = count()

    def come(self, caller: str, tickets: int = 1, *, batch: str | None = None) -> list[str]:
        """Add tickets of a caller. Returns the callers of the tickets that are admitted now."""
        self.policy.enqueue(
            [(caller, next(self.numbers)) for _ in range(tickets)],
            caller,
            batch=batch and f"{caller}'s {batch}",
        )
        return self.step()

    def step(self) -> list[str]:
        admitted = self.policy.step(self.now).admitted
        for ticket in admitted:
            self.policy.answered(ticket, self.now)
        self.running += admitted
        return [caller for caller, _ in admitted]

    def free(self, caller: str) -> list[str]:
        """End the caller's oldest ticket. Returns the callers of the tickets that are admitted then."""
        ticket = next(each for each in self.running if each[0] == caller)
        self.running.remove(ticket)
        self.policy.release(ticket, self.now)
        return self.step()

    def holds(self, caller: str) -> int:
        return sum(each[0] == caller for each in self.running)


def filled_by_ann(limit: int, *, held: float) -> Slots:
    """Bob has come and gone, and Ann's large batch holds every slot that it may hold."""
    slots = Slots(limit, held=held)
    slots.come("bob")
    slots.come("ann", 1_000, batch="big")
    slots.now = held
    slots.free("bob")
    return slots


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 60])
def test_a_caller_who_is_alone_uses_all_slots_even_for_long_predictions(limit):
    slots = Slots(limit, held=300)
    assert ["ann"] * limit == slots.come("ann", 1_000, batch="big")
    slots.now = 300.0
    assert [["ann"]] * limit == [slots.free("ann") for _ in range(limit)]


def test_freed_slots_go_to_four_polite_callers_until_the_greedy_one_holds_half():
    slots = Slots(10, held=300)
    slots.come("ann", 1_000, batch="big")
    for caller in POLITE:
        assert [] == slots.come(caller, 5, batch="small")
    slots.now = 300.0
    freed = [slots.free("ann") for _ in range(6)]
    # Then the last slot is kept for callers without slots, and callers who hold less than half take turns.
    assert [["bob"], ["cid"], ["dan"], ["eve"], [], ["ann"]] == freed
    assert [5, 1, 1, 1, 1] == [slots.holds(caller) for caller in ("ann", *POLITE)]
    next_freed = [caller for holder in ("ann", *POLITE[:3]) for caller in slots.free(holder)]
    assert sorted(POLITE) == sorted(next_freed)


@pytest.mark.parametrize(("limit", "kept"), [(2, 0), (3, 1), (10, 1), (19, 1), (20, 2), (60, 6)])
def test_the_last_tenth_is_kept_for_flows_without_slots_while_others_are_active(limit, kept):
    slots = filled_by_ann(limit, held=31)
    assert limit - kept == slots.holds("ann") == slots.policy.in_flight
    newcomers = [slots.come(caller, 5, batch="small") for caller in (*POLITE, "fay", "gus")[:kept]]
    assert [[caller] for caller in (*POLITE, "fay", "gus")[:kept]] == newcomers
    assert limit == slots.policy.in_flight


def test_predictions_of_30_seconds_keep_no_slot():
    slots = filled_by_ann(10, held=30)
    assert 10 == slots.holds("ann")


def test_the_last_tenth_is_used_again_after_ten_minutes_without_other_callers():
    slots = filled_by_ann(10, held=300)
    assert 9 == slots.holds("ann")
    assert 600.0 == slots.policy.step(599.0).next_chance
    slots.now = 600.0
    assert ["ann"] == slots.step()


def test_a_single_call_finds_a_slot_beside_a_batch_of_the_same_caller():
    slots = Slots(10, held=300)
    slots.come("ann")
    slots.now = 300.0
    slots.free("ann")
    assert 9 == len(slots.come("ann", 1_000, batch="big"))
    assert ["ann"] == slots.come("ann")
    assert [] == slots.come("ann")  # all slots are taken now
    assert 10 == slots.policy.in_flight


def test_a_single_call_goes_before_a_batch_of_the_same_caller_that_holds_half():
    slots = Slots(4, held=10)
    slots.come("ann", 1_000, batch="big")
    slots.come("ann", 3)
    tickets = list(slots.running)
    slots.free("ann")
    [came] = [ticket for ticket in slots.running if ticket not in tickets]
    assert came[1] >= 1_000


def test_a_running_ticket_is_never_withdrawn():
    slots = Slots(10, held=300)
    slots.come("ann", 1_000, batch="big")
    for caller in POLITE:
        slots.come(caller)
    assert 10 == slots.holds("ann") == slots.policy.in_flight
