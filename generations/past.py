"""What earlier processes have used of the limits, as far as it still counts.

A creation counts in the window of creations. A call to a text model counts in the windows of its account and model, and
in the day of its account. A call without an answer may arrive still, so it counts until that is over.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

from admission.metered.accounts import LONGEST_LOST, MONEY_WINDOW
from admission.metered.demand import Demand
from admission.sliding_window import WINDOW
from catalog.registry import Registry
from catalog.texts.runnable import CallModel
from contract.callers import account_of
from contract.ids import is_training_id
from ledger import PastCall, Queries
from ledger.records import AttemptRecord

LONGEST_DOUBT: Final = 600.0
"""Seconds after sending for which a creation without an answer may still arrive, if nothing searches for it."""

_MICRO: Final = 1_000_000


def seconds_in_doubt(since: float, *, now: float) -> float:
    """How long a creation sent at `since` may still arrive if nothing searches for it; negative afterwards."""
    return LONGEST_DOUBT - max(now - since, 0.0)


def answered_ago(
    queries: Queries, now: float, unfinished: Collection[str]
) -> dict[str | None, Sequence[float]]:
    """For each named key, and for all other callers under None: `seconds_since` the recent creations. Those of
    trainings are left out, since they take no place in the window."""
    since = now - LONGEST_DOUBT - WINDOW
    keys = queries.recent_work_of_keys(since)
    attempts: defaultdict[str | None, list[AttemptRecord]] = defaultdict(list)
    for each in queries.recent_attempts(since):
        if not each.is_call and not is_training_id(each.generation_id):
            attempts[keys.get(each.generation_id)].append(each)
    return {
        caller: seconds_since(recent, now=now, unfinished=unfinished) for caller, recent in attempts.items()
    }


def seconds_since(
    attempts: Iterable[AttemptRecord], *, now: float, unfinished: Collection[str] = ()
) -> list[float]:
    """Seconds since each recent creation was answered, or a search for it ended.

    Negative for a creation without an answer, which may still arrive: it counts as answered after `LONGEST_DOUBT`.
    Creations of `unfinished` generations are left out: the gate counts them when they are resumed. Dates in the future
    count as now, since the clock may have been set back."""
    ago = (
        max(now - each.answered_at, 0.0)
        if each.answered_at is not None
        else -seconds_in_doubt(each.submitted_at, now=now)
        for each in attempts
        if each.submitted_at is not None and not (each.is_in_doubt and each.generation_id in unfinished)
    )
    return [seconds for seconds in ago if seconds < WINDOW]


class _Lease(Protocol):
    def lost(self) -> None: ...


class CountingGate(Protocol):
    """The gate of calls before it has admitted any: `metering.gate.MeteredGate`."""

    def count(
        self,
        account: str,
        model: str,
        *,
        answered_ago: float,
        ended_ago: float,
        tokens: int,
        micro_usd: int,
        caller: str,
    ) -> None: ...

    def count_day(self, account: str, model: str, calls: int) -> None: ...

    def adopt(self, demand: Demand, *, sent_ago: float) -> _Lease: ...


@dataclass(frozen=True, slots=True)
class PastCalls:
    """The calls of earlier processes that still count. `of_day` is how many were sent today, by caller and model."""

    recent: Sequence[PastCall]
    of_day: Mapping[tuple[str, str], int]

    @classmethod
    def read(cls, queries: Queries, *, now: float, day_began: float, simulated: bool) -> Self:
        """Read them from the ledger. The times are Unix times. Blocks, and raises LedgerDown."""
        longest = LONGEST_LOST + MONEY_WINDOW
        return cls(
            queries.past_calls(now - longest, simulated=simulated),
            queries.calls_since(day_began, simulated=simulated),
        )

    def count(self, gate: CountingGate, *, now: float, day_began: float, texts: Registry) -> None:
        """Count them at a gate, before it admits any. `texts` are the models. Lost calls of today are counted in the
        day with the other limits."""
        of_day = _by_lane(self.of_day, texts)
        answers = _answers(self.recent)
        for each in self.recent:
            account, model = account_of(each.caller_id), _lane(texts, each.model)
            micro_usd, sent_ago = round(each.usd * _MICRO), max(0.0, now - each.submitted_at)
            answered_at, ended_at = _over(each, answers[account], now)
            if answered_at is None:
                gate.adopt(
                    Demand(
                        caller=each.caller_id,
                        account=account,
                        model=model,
                        tokens=each.tokens,
                        micro_usd=micro_usd,
                    ),
                    sent_ago=sent_ago,
                ).lost()
                if each.submitted_at >= day_began:
                    of_day[account, model] -= 1
            elif max(answered_at + WINDOW, ended_at + MONEY_WINDOW) > now:
                gate.count(
                    account,
                    model,
                    answered_ago=now - answered_at,
                    ended_ago=now - ended_at,
                    tokens=each.tokens,
                    micro_usd=micro_usd,
                    caller=each.caller_id,
                )
        for (account, model), calls in of_day.items():
            gate.count_day(account, model, calls)


def calls_of_day(
    queries: Queries, *, day_began: float, simulated: bool, texts: Registry
) -> list[tuple[str, str, int]]:
    """How many calls each account has sent to each model since a Unix time, in all processes. Blocks, and raises
    LedgerDown."""
    found = _by_lane(queries.calls_since(day_began, simulated=simulated), texts)
    return [(account, model, calls) for (account, model), calls in found.items()]


def _by_lane(by_caller: Mapping[tuple[str, str], int], texts: Registry) -> defaultdict[tuple[str, str], int]:
    """The numbers of calls by account and name, of those by caller and model."""
    found: defaultdict[tuple[str, str], int] = defaultdict(int)
    for (caller, model), calls in by_caller.items():
        found[account_of(caller), _lane(texts, model)] += calls
    return found


def _lane(texts: Registry, name: str) -> str:
    """The name under which the calls of a model are sent: calls under one name share their limits."""
    model = texts.find(name)
    return model.target if isinstance(model, CallModel) else name


def _answers(calls: Iterable[PastCall]) -> Mapping[str, Sequence[tuple[float, float]]]:
    """When the answered calls of each account were answered and sent, in the order of the answers."""
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for each in calls:
        if each.answered_at is not None:
            found[account_of(each.caller_id)].append((each.answered_at, each.submitted_at))
    for each_account in found.values():
        each_account.sort()
    return found


def _over(call: PastCall, answers: Sequence[tuple[float, float]], now: float) -> tuple[float | None, float]:
    """When a call was answered and when it ended, as the limits count it. The first is None if it may arrive still. A
    date in the future counts as now, since the clock may have been set back."""
    ended = now if call.ended_at is None else min(call.ended_at, now)
    if call.answered_at is not None:
        return min(call.answered_at, now), ended
    if not call.is_lost:
        return ended, ended
    later = next((at for at, sent in answers if sent > call.submitted_at and at <= now), None)
    if later is not None:
        return later, later
    if call.ended_at is not None and call.ended_at + LONGEST_LOST <= now:
        return call.ended_at + LONGEST_LOST, call.ended_at + LONGEST_LOST
    return None, ended
