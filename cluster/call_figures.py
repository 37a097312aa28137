"""The figures of the shared gate of calls, as its holder publishes them and the other processes read them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from pydantic import TypeAdapter

from admission.metered.accounts import Lowered
from admission.metered.demand import TooLarge
from admission.metered.policy import MeteredPolicy
from admission.metered.snapshot import MeteredSnapshot, MeteredStats
from admission.semaphores import Semaphores
from metering.gate import MeteredGate

_MOST_ACCOUNTS: Final = 100
"""Accounts whose state is published, those with the most calls first."""


@dataclass(frozen=True, slots=True)
class Figures:
    """`lowered` are the limits that were lowered, and `in_doubt` the accounts with lost calls."""

    statistics: MeteredStats
    accounts: tuple[MeteredSnapshot, ...]
    lowered: tuple[Lowered, ...]
    in_doubt: tuple[str, ...]


_FIGURES: Final = TypeAdapter(Figures)


def figures_of(gate: MeteredGate, in_doubt: Sequence[str]) -> Figures:
    accounts = tuple(gate.snapshot(each) for each in gate.busiest(_MOST_ACCOUNTS))
    return Figures(gate.statistics(), accounts, tuple(gate.lowered), tuple(in_doubt))


def read_figures(published: Mapping[str, Any]) -> Figures:
    return _FIGURES.validate_python(published)


def mirrored(
    seen: Figures, latest: MeteredPolicy, *, day_ends: Callable[[float], float], now: float
) -> MeteredPolicy:
    """A policy in the state of the figures at this moment of this process's clock. It has the limits of the latest
    policy, and those that the holder has lowered. Its tickets are numbers."""
    policy = MeteredPolicy(
        concurrent_limit=latest.concurrent_limit,
        limits=latest.limits,
        day_ends=day_ends,
        semaphores=Semaphores(),
        durations=latest.durations,
    )
    copy_limits(latest, policy)
    for lowered in seen.lowered:
        policy.lower(*lowered)
    numbers = count()
    for each in seen.accounts:
        _fill_account(policy, each, now, numbers)
    return policy


def copy_limits(policy: MeteredPolicy, to: MeteredPolicy | MeteredGate) -> None:
    """Copy the own limits of callers, and the limits that were lowered."""
    for caller, own in policy.own_limits.items():
        to.limit_caller(caller, max_concurrent=own.max_concurrent, per_minute=own.per_minute)
    for account in policy.accounts.values():
        for lowered in account.lowered:
            to.lower(*lowered)


def _fill_account(policy: MeteredPolicy, seen: MeteredSnapshot, now: float, numbers: "count[int]") -> None:
    policy.account(seen.account).restore(seen, ahead=now - seen.now)
    for demand in seen.running:
        policy.adopt(next(numbers), demand, now, sent=now, is_counted=True)
    for demand, waiting in seen.waiting:
        with suppress(TooLarge):  # the limits have just been changed here
            for _ in range(waiting):
                policy.enqueue(next(numbers), demand)
