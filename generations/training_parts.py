"""Makes the parts that find trainers and run trainings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, Self

from auth import Caller
from catalog.published import Published
from catalog.tariff import Tariff
from contract.trainings import USUAL, TrainingFacts
from generations.archive import Archive
from generations.attempt import AttemptRunner
from generations.budgets import Budgets
from generations.creations import LatestVersions
from generations.deadline import Bounds
from generations.generation import Generation
from generations.late import LatePredictions
from generations.published_models import PublishedModels
from generations.resolver import AllowedModels
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
class TrainingUpstream:
    """The provider of trainings, None if they cannot be run, and the store of the `weights` that they make."""

    provider: TrainingProvider | None
    weights: FullWeights | None


NO_TRAININGS: Final = TrainingUpstream(None, None)


@dataclass(frozen=True, slots=True)
class Trainings:
    """`service` is for routes, `gate` and `upstream` run trainings of the `provider`."""

    service: TrainingService
    provider: TrainingProvider
    gate: TrainingGate
    upstream: Upstream


@dataclass(frozen=True, slots=True)
class TrainingKinds:
    """The trainers, and the versions that they have made here."""

    settings: Settings
    ledger: Ledger
    archive: Archive
    models: PublishedModels[Published]
    trainers: Trainers
    trained: TrainedVersions

    @classmethod
    def of(
        cls,
        settings: Settings,
        ledger: Ledger,
        archive: Archive,
        models: PublishedModels[Published],
        allowed: AllowedModels,
        tariff: Tariff,
    ) -> Self:
        simulated = settings.REPLICATE_SIMULATE
        trained = TrainedVersions(
            ledger=ledger, archive=archive, look_up=models.look_up_again, simulated=simulated
        )
        trainers = Trainers(published=models, allowed=allowed, tariff=tariff)
        return cls(settings, ledger, archive, models, trainers, trained)

    def trainings(
        self,
        upstream: TrainingUpstream,
        budget: Budgets,
        payers: Payers,
        token_of: Callable[[Caller], str],
    ) -> Trainings | None:
        """The parts that run trainings, None without a provider. `token_of` returns the token of a caller. Call it on
        the loop."""
        settings, ledger, provider, weights = self.settings, self.ledger, upstream.provider, upstream.weights
        if provider is None:
            return None
        gate = TrainingGate(settings.TRAININGS_AT_ONCE)
        attempts = AttemptRunner(
            provider=provider,
            gate=gate,
            ledger=ledger,
            late=LatePredictions(provider=provider, ledger=ledger, archive=self.archive, budget=budget),
            bounds=Bounds(START_WITHIN, USUAL),
            latest=LatestVersions(self.models),
            payers=payers,
            push_url=settings.PUBLIC_URL if settings.webhooks_come else None,
            arguments=_destination,
        )
        runner = TrainingRunner(
            attempts=attempts,
            provider=provider,
            turns=Turns(ledger, settings.TRAININGS_AT_ONCE),
            trained=self.trained,
            weights=weights,
            token_of=token_of,
        )
        service = TrainingService(
            trainers=self.trainers, provider=provider, budget=budget, ledger=ledger, weights=weights
        )
        return Trainings(service, provider, gate, Upstream(runner, gate))


def _destination(training: Generation) -> dict[str, str]:
    return {"destination": TrainingFacts.read(training.door_facts).destination}
