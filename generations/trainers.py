"""Finds the trainers that requests name, and pins their versions.

A trainer is looked up like any model (`published_models.py`). The path of a training has the id of a version also for
an official trainer, so the latest one is pinned when the request is accepted.
"""

from dataclasses import replace
from typing import Final

from auth import Caller
from catalog.model import Model
from catalog.published import Published
from catalog.targets import Target, is_model_name
from catalog.tariff import Tariff
from catalog.trainers import Trainer, trainer_of
from generations.published_models import Known, PublishedModels
from generations.resolver import AllowedModels, published_model
from ledger import Queries

_NO_TRAINER: Final = "is a model without a training; it makes outputs by POST /generate"


class Trainers:
    """The trainers at Replicate. `find` is called on the loop."""

    def __init__(
        self, *, published: PublishedModels[Published], allowed: AllowedModels, tariff: Tariff
    ) -> None:
        self._published = published
        self._allowed = allowed
        self._tariff = tariff

    async def find(self, name: str, caller: Caller) -> Trainer | str:
        """The trainer `owner/name` or `owner/name:<version>`, or why this name leads to none. Raises ServiceError if
        Replicate does not answer, and LedgerDown."""
        target = Target.parse(name)
        if not is_model_name(target.name):
            return "must be owner/name, or owner/name:<version> with all 64 hexadecimal digits"
        known = await self._published.facts(caller, str(target))
        if known.is_missing:
            return "is no model at Replicate that this token can read"
        if known.version is None:
            return "has no version at Replicate yet"
        if known.form is None or known.form.unread is not None:
            return "has a published schema that cannot be read"
        found = trainer_of(self._priced(known))
        if found is None:
            return _NO_TRAINER
        refusal = self._allowed.refusal_of_service(caller, found)
        return found if refusal is None else refusal

    def restored(self, queries: Queries, name: str, version: str | None, caller: Caller) -> Model:
        """The trainer of a training that was accepted before, with the version that was pinned. If its schema is not
        known any more, its model. Call it in any thread. Raises LedgerDown."""
        model = self._priced(self._published.stored(queries, caller, Target.parse(name).name, version))
        return trainer_of(model) or model

    def _priced(self, known: Known[Published]) -> Model:
        model = self._tariff.priced(published_model(known))
        return replace(model, version=known.version, bills_setup=False)
