"""Prepares trainings before they are submitted, and deletes weights for callers."""

import time
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from auth import Caller
from catalog.model import Model
from catalog.references import Upload
from catalog.targets import is_model_name
from catalog.trainers import Trainer
from contract.trainings import TrainingFacts
from datasets.examine import Dataset
from errors import BudgetExceeded, NotFound, UpstreamError
from generations.archive import Stored
from generations.batch import Batch, Work
from generations.budgets import Budgets
from generations.costs import explained
from generations.generation import Generation
from generations.trainers import Trainers
from ledger import Ledger
from parsing.shapes import GenerationRequest
from parsing.trainings import NewDestination, TrainingFields
from providers.trainings import TrainingProvider

MISSING: Final = "does not exist at Replicate; make it there, or send `create_destination`"
_NO_OWNER: Final = "must be owner/name: Replicate names no account"


class WeightsStorage(Protocol):
    async def remove(self, training_id: str, name: str) -> None:
        """Delete the file of this name of a training, if there is one. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Destination:
    """The model that gets the new version. If it does not exist, `problem` is the reason to refuse a training that does
    not make it, and `cannot_be_made` that to refuse one that does, None if Replicate may make the model."""

    name: str
    exists: bool
    problem: str = MISSING
    cannot_be_made: str | None = None

    def refusal(self, *, creates: bool) -> str | None:
        """Why no training into it can begin, None if one can. `creates` is whether the training may make it."""
        if self.exists:
            return None
        return self.cannot_be_made if creates else self.problem


class TrainingService:
    """Every method is called on the loop."""

    def __init__(
        self,
        *,
        trainers: Trainers,
        provider: TrainingProvider,
        budget: Budgets,
        ledger: Ledger,
        weights: WeightsStorage | None,
    ) -> None:
        self._trainers = trainers
        self._provider = provider
        self._budget = budget
        self._ledger = ledger
        self._weights = weights

    async def trainer(self, name: str, caller: Caller) -> Trainer | str:
        """The trainer of this name, or why there is none. Raises ServiceError if Replicate does not answer."""
        return await self._trainers.find(name, caller)

    async def destination(self, caller: Caller, name: str) -> Destination:
        """The destination; the owner of a name alone is the account that pays. Raises ServiceError if Replicate
        does not answer: that a model is missing never looks like that."""
        if not is_model_name(name):
            owner = await self._provider.account_of(caller)
            if owner is None:
                raise UpstreamError("Replicate did not name the account of the token. Nothing was spent.")
            if not owner:
                return Destination(name, exists=False, problem=_NO_OWNER, cannot_be_made=_NO_OWNER)
            name = f"{owner}/{name}"
        if await self._provider.has_destination(caller, name):
            return Destination(name, exists=True)
        account, owner = await self._provider.account_of(caller), name.partition("/")[0]
        is_own = not account or account.casefold() == owner.casefold()
        reason = None if is_own else f"does not exist, and only {owner} can make it: {account} pays"
        return Destination(name, exists=False, cannot_be_made=reason)

    async def check_budget(self, caller: Caller, request: GenerationRequest) -> None:
        """Check that the caller may spend what this request may cost, before a destination is made for it. It is
        reserved when the training is submitted. Raises BudgetExceeded and LedgerDown."""
        usd, at = request.bound, time.time()
        try:
            async with self._budget.admitted(caller, usd, at):
                self._budget.reserve(caller, usd, at)
        except BudgetExceeded as refused:
            raise explained(refused, request) from None
        self._budget.settle(caller.id, reserved=usd, cost=0.0, at=at)

    async def make_destination(self, caller: Caller, name: str, new: NewDestination) -> None:
        """Make the destination. Raises ServiceError, and InvalidRequest if Replicate refuses it."""
        await self._provider.create_destination(
            caller, name, visibility=new.visibility, hardware=new.hardware
        )

    @staticmethod
    def facts(
        request: GenerationRequest, fields: TrainingFields, destination: str, dataset: Dataset
    ) -> TrainingFacts:
        """The facts of a training that are kept, with an estimate by its steps, and the word that its trainer uses."""
        trainer, sent = request.model, request.first.input
        seconds = trainer.usual_run(sent) if isinstance(trainer, Trainer) else None
        usd = None
        if seconds is not None:
            usd = round(trainer.cost(sent, metrics={"predict_time": seconds}, longest=request.longest), 6)
        return TrainingFacts(
            destination=destination,
            trigger_word=fields.trigger_word or usual_word(trainer),
            images=dataset.images,
            captions=dataset.captions,
            input={name: value for name, value in sent.items() if not _has_own_field(name, value, trainer)},
            estimated_seconds=seconds,
            estimated_usd=usd,
        )

    async def delete_weights(self, work: Work | Stored) -> None:
        """Delete the weights of a training. Raises NotFound if it has none, and LedgerDown."""
        kept = None if isinstance(work, Batch) or not work.has_ended else work.record()
        if kept is None or not kept.files or self._weights is None:
            raise NotFound("This training has no weights.")
        record = replace(kept, files=())
        self._ledger.upsert(record)
        if isinstance(work, Generation):
            work.amend(record)
        await self._ledger.flush()  # otherwise a crash could leave a link without a file
        await self._weights.remove(work.id, kept.files[0])


def usual_word(trainer: Model) -> str | None:
    """The trigger word of a training that names none, if the trainer has one then."""
    name = trainer.word_input if isinstance(trainer, Trainer) else None
    found = None if name is None else trainer.default(name)
    return found if isinstance(found, str) and found else None


def _has_own_field(name: str, value: Any, trainer: Model) -> bool:
    """Whether an input is shown by another field: the zip, or the trigger word."""
    return isinstance(value, Upload) or (isinstance(trainer, Trainer) and name == trainer.word_input)
