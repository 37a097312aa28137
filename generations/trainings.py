"""Runs trainings: an attempt like that of a prediction, and then the new version and its weights.

A training has neither a slot nor a place in the window of creations. At most some run at once, in all processes on the
ledger: each claims its turn in the ledger before its zip is uploaded. An uploaded zip has an address of its own, so a
lost creation is found by it. The zip is deleted at Replicate when the training has ended.

A training that has begun is never begun again by this service. It has succeeded if it names a new version, also if its
weights cannot be kept.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import structlog

from auth import Caller
from catalog.adaptation import Step
from catalog.targets import Target, is_model_name
from concurrency import Gate, Lease
from contract.trainings import MOST_LOGS, TrainingFacts
from errors import GenerationFailed, LedgerDown, OutcomeUnknown
from files.weights import WeightsUnavailable
from generations.attempt import AttemptRunner
from generations.attempts import Attempt
from generations.batch import Batch
from generations.generation import Generation
from ledger import Ledger
from ledger.training_claims import ClaimTraining
from providers import ENDED, Prediction
from providers.trainings import TrainingProvider

_PAUSE: Final = 2.0
"""Seconds between two claims of a turn, while other processes have all of them."""

log = structlog.get_logger("trainings")


class TrainingGate(Gate):
    """A gate of this process for trainings: at most some at once, in turn by caller. How long a version boots does not
    matter, since no other work waits for its slot."""

    def __init__(self, at_once: int) -> None:
        super().__init__(concurrent_limit=at_once, requests_per_minute=_UNLIMITED, bounds_unproven=False)

    async def acquire(self, caller: str, *, boots: str | None = None, **limits: Any) -> Lease:  # noqa: ARG002
        return await super().acquire(caller, **limits)

    def adopt(self, caller: str, *, boots: str | None = None, **limits: Any) -> Lease:  # noqa: ARG002
        return super().adopt(caller, **limits)


_UNLIMITED: Final = 3000
"""Creations in a minute, which the window of all requests but creations bounds already."""


class KeptFile(Protocol):
    @property
    def name(self) -> str: ...


class WeightsKeeper(Protocol):
    """Keeps the weights that trainings have made."""

    async def keep(self, training_id: str, url: str, *, token: str | None = None) -> KeptFile:
        """Fetch, check and keep the file at this address. The `token` is for hosts that need it. Raises
        WeightsUnavailable."""


class Trained(Protocol):
    """Takes the new versions of models."""

    async def add(self, caller: Caller, version: Target, generation: Generation) -> None:
        """Make a version known here at once, with the trigger word of its training."""


class Turns:
    """Which trainings may begin: at most `at_once` of all processes on the ledger. One process has its gate."""

    def __init__(self, ledger: Ledger, at_once: int) -> None:
        self._ledger = ledger
        self._at_once = at_once
        self._first = asyncio.Lock()

    async def take(self, generation: Generation) -> None:
        """Wait for the turn of a training, which it gives back by its state. Waiting ones of this process come in
        order."""
        if self._ledger.process is None:
            return
        generation.transition("queued", self._ledger)  # an earlier process may have had a turn, and not begun
        async with self._first:
            while not await self._claimed(generation):  # noqa: ASYNC110 - other processes give turns back
                await asyncio.sleep(_PAUSE)
        generation.transition("submitting", self._ledger)

    async def _claimed(self, generation: Generation) -> bool:
        try:
            return await self._ledger.claim(ClaimTraining(generation.id, self._at_once))
        except LedgerDown as down:
            log.info("training_waits_for_ledger", training=generation.id, reason=str(down))
            return False


class TrainingRunner:
    """Makes the attempts that are trainings. Without `weights`, none are kept. `token_of` returns the
    token of a caller."""

    def __init__(
        self,
        *,
        attempts: AttemptRunner,
        provider: TrainingProvider,
        turns: Turns,
        trained: Trained,
        weights: WeightsKeeper | None,
        token_of: Callable[[Caller], str],
    ) -> None:
        self._attempts = attempts
        self._provider = provider
        self._turns = turns
        self._trained = trained
        self._weights = weights
        self._token_of = token_of

    async def make(self, generation: Generation, step: Step, batch: Batch | None) -> None:
        """Run one training to its end, or resume that of an earlier process. Raises TryAgain or ServiceError."""
        is_resumed = generation.last is not None and generation.last.is_open
        if not is_resumed:
            await self._turns.take(generation)
        following = _Following(generation, self._provider.follow)
        generation.listeners.append(following.on_transition)
        if is_resumed:
            following.on_transition(generation)  # if it runs already, it enters no new state
        try:
            await self._attempts.make(generation, step, batch)
        finally:
            generation.listeners.remove(following.on_transition)
            following.stop()
            attempt = following.attempt or generation.last
            if attempt is not None:
                _keep_logs(generation, attempt)
                if _is_over(attempt) or _is_unsent(attempt, generation):
                    await self._provider.delete_upload(generation.caller, attempt.fingerprint)
        attempt = generation.last
        assert attempt is not None  # noqa: S101 - it was made
        await self._keep(generation, attempt)

    async def _keep(self, generation: Generation, attempt: Attempt) -> None:
        """Take the new version, and keep its weights. Raises GenerationFailed if there is no version."""
        output = attempt.prediction.output if attempt.prediction else None
        found: Mapping[str, Any] = output if isinstance(output, Mapping) else {}
        version = Target.parse(str(found.get("version") or ""))
        if version.version is None or not is_model_name(version.name):
            attempt.error = GenerationFailed("The training succeeded, but it names no new version.")
            raise attempt.error
        weights = found.get("weights")
        generation.outputs = ({"version": str(version), "weights": weights},)
        generation.kinds = ("data",)
        try:
            await self._trained.add(generation.caller, version, generation)
            if self._weights is None:
                return
            if not isinstance(weights, str):
                raise WeightsUnavailable("the training names none")
            token = self._token_of(generation.caller)
            kept = await self._weights.keep(generation.id, str(weights), token=token)
        except asyncio.CancelledError:
            if not generation.is_cancelled:
                raise  # only interrupted
            reason = "The training was done before it could be cancelled, so its weights were not fetched."
            generation.notes = (*generation.notes, reason)
        except WeightsUnavailable as reason:
            generation.notes = (*generation.notes, f"The file of the weights could not be kept: {reason}.")
        else:
            generation.files = (kept.name,)


class _Following:
    """Follows the progress and the logs of a training while it runs. `attempt` is the one that was about to be sent, if
    there was one."""

    def __init__(self, generation: Generation, follow: Callable[..., Callable[[], None]]) -> None:
        self._generation = generation
        self._follow = follow
        self._leave: Callable[[], None] | None = None
        self.attempt: Attempt | None = None

    def on_transition(self, generation: Generation) -> None:
        if generation.state == "submitting" and isinstance(generation.last, Attempt):
            self.attempt = generation.last
        if generation.state == "running" and self._leave is None and generation.prediction_id is not None:
            # In the next tick, when the provider watches it.
            asyncio.get_running_loop().call_soon(self._begin, generation.prediction_id)

    def _begin(self, training_id: str) -> None:
        if self._leave is None:
            self._leave = self._follow(training_id, self._show, eager=False)

    def stop(self) -> None:
        if self._leave is not None:
            self._leave()
        self._leave = lambda: None

    def _show(self, shown: Prediction) -> None:
        generation = self._generation
        if shown.progress is not None:
            generation.show_progress(shown.progress)
        if shown.logs is not None and not generation.secrets_lost:  # otherwise they may show a secret
            generation.logs = shown.logs.text[-MOST_LOGS:]


def _keep_logs(generation: Generation, attempt: Attempt) -> None:
    logs = attempt.prediction.logs if attempt.prediction else None
    is_over = attempt.prediction is not None and attempt.prediction.status in ENDED
    if logs is not None and is_over and not generation.secrets_lost:
        generation.logs = logs.text[-MOST_LOGS:]
        facts = TrainingFacts.read(generation.door_facts)
        generation.door_facts = facts.changed(logs=generation.logs).as_json()


def _is_unsent(attempt: Attempt, generation: Generation) -> bool:
    """Whether it was cancelled before its creation was sent. Then its zip has arrived, and it is forgotten."""
    return bool(attempt.fingerprint) and all(each is not attempt for each in generation.attempts)


def _is_over(attempt: Attempt) -> bool:
    """Whether its zip is not read any more. A creation with an unknown outcome may have made a training."""
    if not attempt.fingerprint:
        return False
    if attempt.prediction is not None:
        return attempt.prediction.status in ENDED
    return attempt.error is not None and not isinstance(attempt.error, OutcomeUnknown)
