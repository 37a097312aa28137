"""One attempt with a provider whose call is its own answer: wait for admission, send the call once, and read its answer.

The attempt holds a slot of its account from admission to the end of the answer. Before the call is sent, its record is
on the disk. An answer that was lost cannot be looked up. So a call that may have been sent is never sent again, unless
the request says `"on_lost": "repeat"`, and it costs what was reserved for it.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Protocol, Self

from auth import Caller
from catalog.adaptation import Change, Step
from catalog.texts.runnable import CallModel
from errors import GenerationTimeout, LedgerDown, OutcomeUnknown, ServiceError
from generations.answers import Reading, read
from generations.attempts import Attempt
from generations.batch import Batch
from generations.call_inputs import Pictures, call_of
from generations.call_state import CallState
from generations.generation import Generation
from ledger import Ledger
from providers import TryAgain
from providers.calls import Call, CallAnswer, CallLease, CallLost, CallProvider, LimitHit, partial_of

REPEAT: Final = "repeat"
"""The value of `on_lost` with which a lost call is sent again, and may be paid twice."""

_LEDGER_PAUSE: Final = 1.0
"""Seconds between retries while the ledger cannot be written."""


class Lease(CallLease, Protocol):
    """The admission of one call."""

    async def persist(self, ledger: Ledger, reference: str, runs_for: float | None = None, /) -> None:
        """Wait until the ledger has on disk that it is used for the attempt with this id. Raises LedgerDown."""

    def settled(self, micro_usd: int) -> None:
        """The call has ended, and has cost so much."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class CallGate(Protocol):
    """What admits calls: `metering.gate.MeteredGate`, or that of several processes."""

    def must_count(self, account: str, model: str, tokens: int) -> bool:
        """Whether so many tokens are too large a part of the window for an estimate."""

    def check(self, account: str, model: str, tokens: int, micro_usd: int) -> None:
        """Raises ServiceError if a call of this size can never be admitted."""

    async def acquire(self, caller: str, **demand: Any) -> Lease: ...

    def close_limit(self, hit: LimitHit, account: str, model: str) -> None:
        """The provider has refused a call of this model for a limit."""

    def answered_well(self, account: str, model: str) -> None:
        """The provider has accepted a call of this model."""


class CallRunner:
    """Makes attempts at a provider whose calls are their own answers. `timeout` bounds a call without its own, in
    seconds. `pictures` fetches the images of a prompt."""

    def __init__(
        self,
        *,
        provider: CallProvider,
        gate: CallGate,
        ledger: Ledger,
        timeout: float,
        pictures: Pictures,
    ) -> None:
        self._provider = provider
        self._gate = gate
        self._ledger = ledger
        self._timeout = timeout
        self._pictures = pictures

    async def make(self, generation: Generation, step: Step, batch: Batch | None) -> None:
        """Make one attempt with the model of `step`, or end the open attempt of an earlier process, whose answer is
        lost.

        Returns when the generation has its output. Raises TryAgain or ServiceError."""
        if (begun := generation.last) is not None and begun.is_open:
            self._end_lost(generation, begun)
        if generation.is_cancelled:
            raise asyncio.CancelledError
        model = step.model
        assert isinstance(model, CallModel)  # noqa: S101 - this runner is for no other
        attempt = Attempt(model, step.input, step.changes, longest=generation.request.longest)
        try:
            call = await call_of(step.input, model, self._pictures, again=_mistakes(generation))
            tokens = await self._tokens(generation.caller, call, model)
        except ServiceError as error:
            attempt.error = error
            generation.attempts.append(attempt)
            raise
        state = attempt.call = CallState(tokens, model.bound_of(step.input, tokens))
        answer = await self._send(generation, attempt, state, call, batch)
        self._keep(generation, attempt, state, read(answer, step.input))

    async def _tokens(self, caller: Caller, call: Call, model: CallModel) -> int:
        """An upper bound of the tokens of a prompt; of a large one, as the provider counts them."""
        tokens = self._provider.tokens_bound(call)
        if self._gate.must_count(caller.account, model.target, tokens):
            with suppress(TryAgain):  # the estimate is an upper bound
                tokens = min(tokens, await self._provider.count_tokens(caller, call))
        return tokens

    async def _send(
        self, generation: Generation, attempt: Attempt, state: CallState, call: Call, batch: Batch | None
    ) -> CallAnswer:
        """Send the call once it is admitted, and wait for its answer."""
        caller, model, clock = generation.caller, attempt.model.target, asyncio.get_running_loop().time
        self._gate.check(caller.account, model, state.tokens, state.bound)
        demand = {"account": caller.account, "model": model, "tokens": state.tokens, "micro_usd": state.bound}
        queued_at = clock()
        try:
            lease = await self._gate.acquire(caller.turn, **demand, **_limits(generation, batch))
        finally:
            generation.queued_seconds += clock() - queued_at
        admitted = clock()
        generation.attempts.append(attempt)
        with lease:
            await self._persist(generation, attempt, lease)
            try:
                answer = await self._answer(generation, attempt, state, call, lease)
            finally:
                attempt.held_seconds = clock() - admitted
                generation.predicting_seconds += attempt.held_seconds
            assert isinstance(attempt.model, CallModel)  # noqa: S101 - see `make`
            state.take(answer, attempt.model)
            attempt.answered_at = attempt.answered_at or time.time()
            lease.settled(state.micro_usd or 0)
        self._gate.answered_well(caller.account, model)
        return answer

    async def _answer(
        self, generation: Generation, attempt: Attempt, state: CallState, call: Call, lease: Lease
    ) -> CallAnswer:
        """The answer to a call that is about to be sent. Raises what the caller gets, with the state of the attempt."""

        def add(piece: str) -> None:
            if not state.text:
                attempt.answered_at = time.time()
                generation.transition("running", self._ledger)
            state.text += piece
            for listener in generation.deltas:
                listener(piece)

        seconds = generation.request.timeout or self._timeout
        try:
            async with asyncio.timeout(seconds) as timer:
                return await self._provider.run(generation.caller, call, lease=lease, on_delta=add)
        except LimitHit as hit:
            self._gate.close_limit(hit, generation.caller.account, attempt.model.target)
            attempt.error = hit.error
            if hit.kind in {"minute", "capacity"}:
                raise TryAgain(
                    hit.error, wait=hit.wait if hit.kind == "capacity" else 0.0, gate_closed=True
                ) from None
            raise hit.error from None
        except TryAgain as again:
            attempt.error = again.error
            if again.unreachable or again.held_back:
                attempt.submitted_at = None  # nothing was sent
            raise
        except BaseException as reason:
            error = reason
            if isinstance(reason, TimeoutError) and timer.expired():
                error = GenerationTimeout(f"The answer had not ended after {seconds:g} s.")
            raise self._failed(generation, attempt, state, error, reason) from None

    def _failed(
        self,
        generation: Generation,
        attempt: Attempt,
        state: CallState,
        error: BaseException,
        reason: BaseException,
    ) -> BaseException:
        """The error to raise for a call that has ended so, whose state is recorded."""
        partial = reason.partial if isinstance(reason, CallLost) else partial_of(reason.__cause__ or reason)
        if partial is None:  # it was not sent, or the provider refused it
            if isinstance(error, ServiceError):
                attempt.error = error
            else:
                attempt.submitted_at = None
            return error
        state.lose(partial)
        generation.text = state.text or None
        if isinstance(error, asyncio.CancelledError):
            attempt.error = CallLost("The call was cancelled after it was sent.", partial=partial)
            if generation.is_cancelled:
                return error
            error = CallLost("The service stopped before the answer had ended.", partial=partial)
        if not isinstance(error, ServiceError):
            return error
        attempt.error = error
        if isinstance(error, OutcomeUnknown) and attempt.input.get("on_lost") == REPEAT:
            return TryAgain(error)
        return error

    def _end_lost(self, generation: Generation, begun: Attempt) -> None:
        """End an attempt that an earlier process had sent. Raises CallLost, or TryAgain if it is to be repeated."""
        assert isinstance(begun.model, CallModel)  # noqa: S101 - see `make`
        tokens = begun.model.tokens_bound(begun.input)
        state = begun.call or CallState(tokens, begun.model.bound_of(begun.input, tokens))
        begun.call, state.may_be_billed = state, True
        if generation.is_cancelled:
            begun.error = CallLost()
            raise asyncio.CancelledError
        begun.error = CallLost("The service stopped before the answer had ended.")
        if begun.input.get("on_lost") == REPEAT:
            raise TryAgain(begun.error)
        raise begun.error

    async def _persist(self, generation: Generation, attempt: Attempt, lease: Lease) -> None:
        """Record on the disk that this attempt is about to be sent. Raises LedgerDown if the generation is not on the
        disk either."""
        reference = f"{generation.id}.{len(generation.attempts)}"
        try:
            while True:
                attempt.submitted_at = time.time()
                generation.transition("submitting", self._ledger)
                try:
                    await lease.persist(self._ledger, reference, generation.request.longest)
                    generation.persisted = True
                    return
                except LedgerDown:
                    if not generation.persisted:
                        raise
                    await asyncio.sleep(_LEDGER_PAUSE)
        except (LedgerDown, asyncio.CancelledError) as error:  # nothing was sent, so forget the attempt
            record = attempt.record(generation.id, len(generation.attempts))
            self._ledger.delete(type(record), record.generation_id, record.number)
            generation.attempts.remove(attempt)
            if isinstance(error, asyncio.CancelledError):
                generation.transition("queued", self._ledger)
            raise

    def _keep(self, generation: Generation, attempt: Attempt, state: CallState, reading: Reading) -> None:
        """Keep the output of an answer, or raise why it is none."""
        sent, version = attempt.model.target, state.version
        if version is not None and not version.startswith(sent):
            attempt.changes = (*attempt.changes, Change("model", sent, "model", version))
        generation.notes = reading.warnings
        if reading.error is None:
            generation.outputs, generation.kinds = (reading.output,), (reading.kind,)
            return
        generation.text = state.text or None
        attempt.error = reading.error
        if reading.may_repair and not _mistakes(generation, but=attempt):
            raise TryAgain(reading.error, wait=0.0)
        raise reading.error


def _limits(generation: Generation, batch: Batch | None) -> Mapping[str, Any]:
    """The arguments of the gate that place a call in its batch and its semaphore."""
    limits: dict[str, Any] = {"batch": batch.id, "max_concurrent": batch.max_concurrent} if batch else {}
    return limits if generation.semaphore is None else {**limits, "semaphore": generation.semaphore}


def _mistakes(generation: Generation, *, but: Attempt | None = None) -> list[ServiceError]:
    """The errors of earlier attempts whose answers were not valid."""
    return [
        each.error
        for each in generation.attempts
        if isinstance(each, Attempt)
        and each is not but
        and each.call is not None
        and each.call.usage is not None
        and each.error is not None
    ]
