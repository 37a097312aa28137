"""The providers of predictions and of trainings as one, for work of either kind. Which one is meant follows from the id
of the work, with which the reference of an attempt begins."""

from collections.abc import Iterable
from typing import Protocol

from contract.ids import is_training_id
from providers import CreationRegistry, ProgressSource, UncertainCreation
from providers.pushes import PushReceiver


class RunProvider(PushReceiver, CreationRegistry, ProgressSource, Protocol):
    """The protocols that both have beside `Provider`."""


class RunProviders:
    """The two providers. Use it on the loop."""

    def __init__(self, predictions: RunProvider, trainings: RunProvider) -> None:
        self._predictions = predictions
        self._trainings = trainings

    def of(self, work_id: str) -> RunProvider:
        """The provider of this work, or of an attempt by its reference."""
        return self._trainings if is_training_id(work_id) else self._predictions

    def register_uncertain(self, creations: Iterable[UncertainCreation]) -> None:
        """As `CreationRegistry`, for each of these."""
        for each in creations:
            self.of(each.reference).register_uncertain(each)

    def register_known(self, ids: Iterable[str]) -> None:
        """As `CreationRegistry`. An id is no other's, so both may know it."""
        known = list(ids)
        self._predictions.register_known(known)
        self._trainings.register_known(known)
