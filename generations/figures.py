"""The figures of the work in one process, and in all processes that share a ledger."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from admission.snapshot import GateStats
from concurrency import Gate
from generations.lifecycle import Runner
from generations.supervisor import Supervisor
from providers import AccountSource


@dataclass(frozen=True, slots=True)
class WorkFigures:
    """`ended` counts the generations that have ended since the start, by state. `polls_per_minute` counts requests that
    create nothing."""

    in_flight: int = 0
    waiting: int = 0
    ended: Mapping[str, int] = field(default_factory=dict)
    polls_per_minute: int = 0
    account_shared: bool = False
    oldest_waiting_seconds: float | None = None
    trainings_running: int = 0
    trainings_waiting: int = 0

    @classmethod
    def from_json(cls, published: Mapping[str, Any]) -> Self:
        """The figures of any process. One of another version may publish more or fewer."""
        return cls(**{each.name: published[each.name] for each in fields(cls) if each.name in published})

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def figures_of(supervisor: Supervisor, runner: Runner, account: AccountSource, others: Gate) -> WorkFigures:
    """The figures of this process. `others` is the gate of requests that create nothing."""
    waiting, in_flight = supervisor.running.counts()
    trainings_waiting, trainings_running = supervisor.running.training_counts()
    return WorkFigures(
        in_flight=in_flight,
        waiting=waiting,
        ended=dict(runner.ended),
        polls_per_minute=others.statistics().current_rate_per_minute,
        account_shared=account.account_shared,
        oldest_waiting_seconds=supervisor.running.longest_waiting(),
        trainings_running=trainings_running,
        trainings_waiting=trainings_waiting,
    )


def total(processes: Sequence[WorkFigures]) -> WorkFigures:
    """The figures of these processes together, of which there is at least one."""
    ended: Counter[str] = Counter()
    for each in processes:
        ended.update(each.ended)
    return WorkFigures(
        in_flight=sum(each.in_flight for each in processes),
        waiting=sum(each.waiting for each in processes),
        ended=ended,
        polls_per_minute=sum(each.polls_per_minute for each in processes),
        account_shared=any(each.account_shared for each in processes),
        oldest_waiting_seconds=max(
            (each.oldest_waiting_seconds for each in processes if each.oldest_waiting_seconds is not None),
            default=None,
        ),
        trainings_running=sum(each.trainings_running for each in processes),
        trainings_waiting=sum(each.trainings_waiting for each in processes),
    )


def concurrency_figures(gate: GateStats) -> dict[str, Any]:
    """The figures of the gate of predictions, in `GET /status`."""
    return {
        "concurrent_limit": gate.concurrent_limit,
        "current_concurrent": gate.current_concurrent,
        "available_slots": gate.available_slots,
        "waiting": gate.waiting,
        "requests_per_minute_limit": gate.requests_per_minute_limit,
        "current_rate_per_minute": gate.current_rate_per_minute,
        "paused_seconds": round(gate.paused_seconds, 1),
        "booting": gate.booting,
    }
