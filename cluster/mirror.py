"""The figures of the shared gate, as its holder publishes them and the other processes read them."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import count, groupby
from typing import Any, Final

from pydantic import TypeAdapter

from admission.durations import Durations
from admission.own_limits import UNLIMITED, OwnLimits
from admission.policy import Policy
from admission.snapshot import GateSnapshot, GateStats
from cluster.call_figures import Figures
from concurrency import Gate

_SNAPSHOT: Final = TypeAdapter(GateSnapshot)
_STATISTICS: Final = TypeAdapter(GateStats)


def figures_of(gate: Gate, calls: Figures) -> str:
    """The figures of a gate, and those of the gate of calls beside it, as JSON."""
    figures: dict[str, Any] = {"statistics": gate.statistics(), "snapshot": gate.snapshot(), "calls": calls}
    return json.dumps({name: asdict(each) for name, each in figures.items()})


def read_figures(figures: Mapping[str, Any], *, now: float) -> tuple[GateStats, GateSnapshot]:
    """The figures that were published at the moment `now` of this process's clock, as parsed JSON."""
    snapshot = _SNAPSHOT.validate_python(figures["snapshot"])
    return _STATISTICS.validate_python(figures["statistics"]), snapshot.shifted(now - snapshot.now)


def mirrored(
    seen: GateSnapshot,
    semaphores: Mapping[str, int],
    durations: Durations,
    own_limits: dict[str, OwnLimits],
) -> Policy:
    """A policy in the state of the snapshot. Its tickets are numbers. It keeps the `own_limits` of callers, which
    this process knows at least as well as the holder of the gate did."""
    policy = Policy(
        concurrent_limit=seen.concurrent_limit,
        requests_per_minute=seen.requests_per_minute,
        interactive_reserve=seen.reserve.share,
        durations=durations,
    )
    policy.queue.limits = own_limits
    for name, limit in semaphores.items():
        policy.semaphores.set_limit(name, limit)
    numbers = count()
    for flow in seen.flows:
        limits: dict[str, Any] = {
            "batch": flow.batch, "max_concurrent": flow.max_concurrent, "semaphore": flow.semaphore
        }  # fmt: skip
        for version in flow.running():
            policy.adopt(next(numbers), flow.caller, now=seen.now, boots=version, **limits)
        for version, waiting in groupby(flow.queued()):
            policy.enqueue([next(numbers) for _ in waiting], flow.caller, boots=version, **limits)
    known = {
        caller: replace(own, limits=own_limits.get(caller, UNLIMITED))
        for caller, own in seen.own_limits.items()
    }
    policy.restore(replace(seen, own_limits=known), unanswered=math.inf)
    return policy
