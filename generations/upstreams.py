"""The upstreams: for the models of each provider how attempts are made, and the gate that admits them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from admission.durations import Durations
from catalog.adaptation import Step
from catalog.model import Model
from generations.batch import Batch
from generations.generation import Generation


class Attempts(Protocol):
    """Makes attempts at one provider."""

    async def make(self, generation: Generation, step: Step, batch: Batch | None) -> None:
        """Make one attempt with the model of `step`, or resume the open attempt of an earlier process.

        Returns when its model has made what it makes. Raises TryAgain or ServiceError."""


class AttemptGate(Protocol):
    """What every gate has for the work that waits at it. A `turn` is that of a caller (`auth.Caller.turn`)."""

    @property
    def durations(self) -> Durations: ...

    @property
    def slots_held(self) -> int: ...

    def in_flight(self, turn: str, /) -> int: ...

    def pause(self, turn: str, seconds: float, /) -> None: ...

    def slow_down(self, turn: str, /) -> None: ...

    def refuse(self, turn: str, batch: str | None, /) -> bool: ...

    def dismiss(self, turn: str, batch: str, reason: Callable[[], Exception], /) -> None: ...

    def close(self, reason: Callable[[], Exception], /) -> None: ...


@dataclass(frozen=True, slots=True)
class Upstream:
    attempts: Attempts
    gate: AttemptGate


class Upstreams:
    """The upstream of each provider, by its name."""

    def __init__(self, upstreams: Mapping[str, Upstream]) -> None:
        self._by_provider = upstreams

    def of(self, model: Model) -> Upstream:
        """The upstream that runs a model."""
        return self._by_provider[model.provider]

    @property
    def gates(self) -> Iterable[AttemptGate]:
        return [each.gate for each in self._by_provider.values()]

    @property
    def slots_held(self) -> int:
        """How many slots all callers hold."""
        return sum(each.slots_held for each in self.gates)

    def in_flight(self, turn: str) -> int:
        """How many slots a caller holds."""
        return sum(each.in_flight(turn) for each in self.gates)

    def close(self, reason: Callable[[], Exception]) -> None:
        """Admit nothing any more: every current and every later wait raises `reason()`."""
        for each in self.gates:
            each.close(reason)
