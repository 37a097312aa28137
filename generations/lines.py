"""The places of queued work at its gate: that of creations, or that of calls to text models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

from admission.forecast import Item, Plan, plan
from admission.metered import forecast as metered
from admission.metered.demand import Demand
from admission.metered.snapshot import MeteredSnapshot
from auth import Caller
from catalog.texts.runnable import CallModel
from cluster import AnyCallGate, AnyGate
from generations.costs import Estimate
from generations.demands import demand_of
from generations.generation import Generation
from loop_thread import Pool
from parsing.shapes import BatchRequest

_BYTES_PER_TOKEN: Final = 4
"""Bytes of English text that a token has on average. The bound of a prompt counts one."""


class Line(Protocol):
    """The place of one queued generation."""

    @property
    def place(self) -> int:
        """From 1, which is next."""

    def wait(self, usual: float) -> float:
        """The seconds until its admission, if it usually runs for so many."""


@dataclass(frozen=True, slots=True)
class CreationLine:
    """`ahead` generations of the same caller, batch and semaphore are before it. So many of its batch may run
    `at_once`."""

    gate: AnyGate
    generation: Generation
    ahead: int
    at_once: int | None

    @property
    def place(self) -> int:
        queued = self.generation
        return self.gate.queue_position(queued.caller.turn, queued.batch_id, self.ahead, queued.semaphore)

    def wait(self, usual: float) -> float:
        queued = self.generation
        line = queued.caller.turn, queued.batch_id, self.ahead, queued.semaphore
        return self.gate.estimated_wait(*line, usual=usual, bound=self.at_once, boots=queued.model.boots)


@dataclass(frozen=True, slots=True)
class CallLine:
    """`ahead` calls of the same caller, batch and semaphore are before it."""

    gate: AnyCallGate
    demand: Demand
    ahead: int

    @property
    def place(self) -> int:
        return self.gate.queue_position(self.demand, self.ahead)

    def wait(self, usual: float) -> float:
        return self.gate.estimated_wait(self.demand, self.ahead, usual=usual)


def line_of(
    generation: Generation,
    ahead: int,
    *,
    creations: AnyGate,
    calls: "AnyCallGate | None",
    at_once: int | None,
) -> Line:
    """The place of a queued generation. So many of its batch may run `at_once`."""
    step = generation.request.first
    if calls is None or not isinstance(step.model, CallModel):
        return CreationLine(creations, generation, ahead, at_once)
    demand = demand_of(
        step,
        generation.caller,
        batch=generation.batch_id,
        at_once=at_once,
        semaphore=generation.semaphore,
    )
    return CallLine(calls, demand, ahead)


async def planned(
    request: BatchRequest,
    caller: Caller,
    costs: Sequence[Estimate],
    *,
    creations: AnyGate,
    calls: "AnyCallGate | None",
    threads: Pool,
) -> Plan:
    """The plan of a batch of this caller if it were submitted now. All its models have one provider."""
    if calls is not None and any(isinstance(each.model, CallModel) for each in request.requests[:1]):
        snapshot = calls.snapshot(caller.account)
        demands = [
            demand_of(
                each.first,
                caller,
                batch="planned",
                at_once=request.max_concurrent,
                semaphore=request.semaphore,
            )
            for each in request.requests
        ]
        items = [
            metered.MeteredItem(
                _within(demand, snapshot),
                demand.tokens // _BYTES_PER_TOKEN,
                each.model.usual_seconds,
                cost.usd,
            )
            for demand, each, cost in zip(demands, request.requests, costs, strict=True)
        ]
        return await threads.run(partial(metered.plan, items, snapshot, calls.durations))
    found = [
        Item(each.model.name, each.model.usual_seconds, cost.usd, each.model.credits, each.model.boots)
        for each, cost in zip(request.requests, costs, strict=True)
    ]
    return await threads.run(
        partial(
            plan,
            found,
            creations.snapshot(request.semaphore, caller.turn),
            creations.durations,
            caller=caller.turn,
            max_concurrent=request.max_concurrent,
            semaphore=request.semaphore,
        )
    )


def _within(demand: Demand, seen: MeteredSnapshot) -> Demand:
    """A demand that fits its windows. An upper estimate may be more than they have, while the call is not."""
    tokens = min(demand.tokens, seen.limits.of(demand.model).tpm)
    return replace(demand, tokens=tokens, micro_usd=min(demand.micro_usd, seen.limits.micro_usd))
