"""Makes the parts that run trainings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from auth import Caller
from contract.trainings import USUAL, TrainingFacts
from generations.archive import Archive
from generations.attempt import AttemptRunner
from generations.budgets import Budgets
from generations.creations import LatestVersions
from generations.deadline import Bounds
from generations.generation import Generation
from generations.late import LatePredictions
from generations.trained import TrainedVersions
from generations.trainers import Trainers
from generations.training_service import TrainingService, WeightsStorage
from generations.trainings import TrainingGate, TrainingRunner, Turns, WeightsKeeper
from generations.upstreams import Upstream
from ledger import Ledger
from parsing.trainings import START_WITHIN
from providers.payers import Payers
from providers.trainings import TrainingProvider
from settings import Settings


class FullWeights(WeightsKeeper, WeightsStorage, Protocol):
    """A store of weights with all that trainings need of it."""


@dataclass(frozen=True, slots=True)
class Trainings:
    """`service` is for routes, `gate` and `upstream` run trainings."""

    service: TrainingService
    provider: TrainingProvider
    gate: TrainingGate
    upstream: Upstream

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        provider: TrainingProvider,
        trainers: Trainers,
        trained: TrainedVersions,
        ledger: Ledger,
        archive: Archive,
        budget: Budgets,
        latest: LatestVersions,
        payers: Payers,
        weights: FullWeights | None,
        token_of: Callable[[Caller], str],
    ) -> Self:
        """Call it on the loop."""
        gate = TrainingGate(settings.TRAININGS_AT_ONCE)
        attempts = AttemptRunner(
            provider=provider,
            gate=gate,
            ledger=ledger,
            late=LatePredictions(provider=provider, ledger=ledger, archive=archive, budget=budget),
            bounds=Bounds(START_WITHIN, USUAL),
            latest=latest,
            payers=payers,
            push_url=settings.PUBLIC_URL if settings.webhooks_come else None,
            arguments=_destination,
        )
        runner = TrainingRunner(
            attempts=attempts,
            provider=provider,
            turns=Turns(ledger, settings.TRAININGS_AT_ONCE),
            trained=trained,
            weights=weights,
            token_of=token_of,
        )
        service = TrainingService(trainers=trainers, provider=provider, ledger=ledger, weights=weights)
        return cls(service, provider, gate, Upstream(runner, gate))


def _destination(training: Generation) -> dict[str, str]:
    return {"destination": TrainingFacts.read(training.door_facts).destination}
