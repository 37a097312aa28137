"""One call to a text model: wait for admission, send once, and read the answer.

The attempt holds a slot of its account from admission to the end of the answer. Before the call is sent, its record is
on the disk. An answer that was lost cannot be looked up. So a call that may have been sent is never sent again, unless
the request has `"on_lost": "repeat"`, and it costs what was reserved for it.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, Self

from admission.metered.demand import Demand
from admission.metered.snapshot import DayCounts
from auth import Caller
from catalog.adaptation import Change, Step
from catalog.registry import Registry
from catalog.texts.runnable import CallModel
from cluster import AnyCallGate
from errors import GenerationTimeout, OutcomeUnknown, ServiceError
from files.pictures import PictureSource
from generations.answers import Reading, read
from generations.archive import Archive
from generations.attempts import Attempt
from generations.batch import Batch
from generations.call_admission import CallAdmission, CallGate, Lease
from generations.call_state import STOPPED, CallState
from generations.demands import demand_of
from generations.generation import Generation
from generations.past import PastCalls, calls_of_day
from generations.room import Held, Room
from generations.submitting import attempt_id_of, persist_submission
from generations.upstreams import Upstream
from ledger import Ledger, Queries
from loop_thread import Pool
from metering.gate import MeteredGate
from providers import TryAgain, UpstreamState
from providers.call_inputs import Pictures, call_of, pictures_bound
from providers.calls import Call, CallAnswer, CallLost, CallProvider, LimitHit, Partial, partial_of

REPEAT: Final = "repeat"
"""The value of `on_lost` with which a lost call is sent again, and may be paid twice."""

_LONG: Final = 20_000
"""Characters of an answer whose check would block the loop for more than some ten milliseconds."""


class FullCallProvider(CallProvider, Protocol):
    """A provider of calls with all that the service needs of it."""

    @property
    def upstream(self) -> UpstreamState:
        """The state of the provider, over all accounts."""

    async def aclose(self) -> None:
        """Close every connection."""


class CallRunner:
    """Makes the attempts that are calls to text models. `timeout` bounds a call without its own, in
    seconds. `pictures` fetches the images of a prompt, and long answers are read on `threads`. `prove` is called with a
    caller whose key was accepted."""

    def __init__(
        self,
        *,
        provider: CallProvider,
        gate: CallGate,
        ledger: Ledger,
        timeout: float,
        pictures: Pictures,
        threads: Pool,
        prove: Callable[[Caller], object] = lambda caller: None,
    ) -> None:
        self._provider = provider
        self._admission = CallAdmission(gate)
        self._ledger = ledger
        self._timeout = timeout
        self._pictures = pictures
        self._room = Room()
        self._threads = threads
        self._prove = prove

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
        if size := pictures_bound(step.input):
            clock = asyncio.get_running_loop().time
            queued_at = clock()
            async with self._room.hold(generation.caller.turn, size) as held:
                generation.queued_seconds += clock() - queued_at
                answer, state = await self._call(generation, attempt, step, batch, held)
        else:
            answer, state = await self._call(generation, attempt, step, batch, None)
        if len(answer.text) > _LONG:
            reading = await self._threads.run(lambda: read(answer, step.input))
        else:
            reading = read(answer, step.input)
        self._keep(generation, attempt, state, reading)

    async def _call(
        self, generation: Generation, attempt: Attempt, step: Step, batch: Batch | None, held: Held | None
    ) -> tuple[CallAnswer, CallState]:
        """Make the call of an attempt, with its images in the room that is `held`."""
        model = attempt.model
        assert isinstance(model, CallModel)  # noqa: S101 - see `make`
        try:
            call = await call_of(step.input, model, self._pictures, again=_mistakes(generation))
            if held is not None:
                held.shrink(sum(len(each.data) for message in call.messages for each in message.pictures))
            demand = await self._demand(generation, step, call, batch)
        except ServiceError as error:
            attempt.error = error
            generation.attempts.append(attempt)
            raise
        state = attempt.call = CallState(demand.tokens, demand.micro_usd)
        return await self._send(generation, attempt, state, call, demand), state

    async def _demand(self, generation: Generation, step: Step, call: Call, batch: Batch | None) -> Demand:
        """What the call needs. The provider counts the tokens of a large prompt. Raises PromptTooLarge."""
        sized = partial(
            demand_of,
            step,
            generation.caller,
            batch=batch.id if batch else None,
            at_once=batch.max_concurrent if batch else None,
            semaphore=generation.semaphore,
        )
        demand = sized(tokens=self._provider.tokens_bound(call))
        if self._admission.gate.is_large(demand):
            with suppress(TryAgain):  # the estimate is an upper bound
                counted = await self._provider.count_tokens(generation.caller, call)
                demand = sized(tokens=min(demand.tokens, counted))
        self._admission.check(demand)
        return demand

    async def _send(
        self, generation: Generation, attempt: Attempt, state: CallState, call: Call, demand: Demand
    ) -> CallAnswer:
        """Send the call once it is admitted, and wait for its answer."""
        model, clock = attempt.model, asyncio.get_running_loop().time
        assert isinstance(model, CallModel)  # noqa: S101 - see `make`
        queued_at = clock()
        try:
            lease = await self._admission.acquire(demand)
        finally:
            generation.queued_seconds += clock() - queued_at
        admitted = clock()
        generation.attempts.append(attempt)
        with lease:
            reference = attempt_id_of(generation, attempt)
            persist = partial(lease.persist, self._ledger, reference)
            await persist_submission(generation, attempt, self._ledger, persist)
            try:
                answer = await self._answer(generation, attempt, state, call, lease)
            finally:
                attempt.held_seconds = clock() - admitted
                generation.predicting_seconds += attempt.held_seconds
            attempt.answer_seconds = (clock() if state.began is None else state.began) - admitted
            state.take(answer, model)
            attempt.answered_at = attempt.answered_at or time.time()
            lease.proceed()
            lease.settled(state.micro_usd or 0)
        self._prove(generation.caller)
        return answer

    async def _answer(
        self, generation: Generation, attempt: Attempt, state: CallState, call: Call, lease: Lease
    ) -> CallAnswer:
        """The answer to a call that is about to be sent. Raises what the caller gets, with the state of the attempt."""

        def add(piece: str) -> None:
            if not state.text:
                attempt.answered_at, state.began = time.time(), asyncio.get_running_loop().time()
                lease.proceed()
                generation.transition("running", self._ledger, lazily=True)
            state.text += piece
            for listener in generation.deltas:
                listener(piece)

        seconds = generation.request.timeout or self._timeout
        try:
            async with asyncio.timeout(seconds) as timer:
                return await self._provider.run(
                    generation.caller, call, lease=lease, on_delta=add, seconds=seconds
                )
        except LimitHit as hit:
            lease.settled(0)
            attempt.error, attempt.answered_at = hit.error, time.time()
            raise self._admission.limited(generation.caller.account, call.model, hit) from None
        except TryAgain as again:
            lease.settled(0)
            attempt.error, attempt.answered_at = again.error, time.time()
            if again.unreachable or again.held_back:
                attempt.submitted_at = attempt.answered_at = None  # it was not sent
            raise
        except BaseException as reason:
            error = reason
            if isinstance(reason, TimeoutError) and timer.expired():
                error = GenerationTimeout(f"The answer had not ended after {seconds:g} s.")
            raise self._failed(generation, attempt, lease, error, reason) from None

    def _failed(
        self,
        generation: Generation,
        attempt: Attempt,
        lease: Lease,
        error: BaseException,
        reason: BaseException,
    ) -> BaseException:
        """Record how a call has ended. Returns the error to raise."""
        came = reason.partial if isinstance(reason, CallLost) else _partial_of(reason)
        if came is None:  # it was not sent, or the provider refused it
            lease.settled(0)
            if isinstance(error, ServiceError):
                attempt.error, attempt.answered_at = error, time.time()
            else:
                attempt.submitted_at = None
            return error
        state = attempt.call
        assert state is not None  # noqa: S101 - it is a call
        state.lose(came)
        generation.text = state.text or None
        if isinstance(error, asyncio.CancelledError):
            attempt.error = CallLost("The call was cancelled after it was sent.", partial=came)
            if generation.is_cancelled:
                return error
            error = CallLost(STOPPED, partial=came)
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
        begun.error = CallLost(STOPPED)
        if begun.input.get("on_lost") == REPEAT:
            raise TryAgain(begun.error)
        raise begun.error

    def _keep(self, generation: Generation, attempt: Attempt, state: CallState, reading: Reading) -> None:
        """Keep the output of an answer, or raise why it is none."""
        model, version = attempt.model, state.version
        assert isinstance(model, CallModel)  # noqa: S101 - see `make`
        if version is not None and not model.is_named_by(version):
            attempt.changes = (*attempt.changes, Change("model", model.name, "model", version))
        generation.notes = reading.warnings
        if reading.error is None:
            generation.outputs, generation.kinds = (reading.output,), (reading.kind,)
            return
        generation.text = state.text or None
        attempt.error = reading.error
        may_repeat = attempt.input.get("repair") is True
        if may_repeat and reading.may_repair and not _mistakes(generation, but=attempt):
            raise TryAgain(reading.error, wait=0.0)
        raise reading.error


@dataclass(frozen=True, slots=True)
class Calls:
    """The parts that run the text models of one provider: its gate, and a source of the images of prompts. `texts` are
    the models. If calls are `simulated`, only such count."""

    provider: FullCallProvider
    gate: AnyCallGate
    pictures: PictureSource
    texts: Registry
    simulated: bool

    @classmethod
    def of(
        cls, provider: FullCallProvider, gate: AnyCallGate, texts: Registry, *, threads: Pool, simulated: bool
    ) -> Self:
        """The calls of a provider, whose large images are read on `threads`. Call it on the loop."""
        return cls(
            provider, gate, PictureSource(threads=threads, loopback=simulated), texts, simulated=simulated
        )

    def read_past(self, queries: Queries) -> PastCalls | None:
        """The calls of earlier processes that still count. None beside other processes, where the rows of all show what
        counts. Blocks, and raises LedgerDown."""
        if not isinstance(self.gate, MeteredGate):
            return None
        began = self.gate.day_began()
        return PastCalls.read(queries, now=time.time(), day_began=began, simulated=self.simulated)

    def begin(self, past: PastCalls | None) -> None:
        """Count the calls of earlier processes, before any is admitted."""
        if past is not None and isinstance(self.gate, MeteredGate):
            past.count(self.gate, now=time.time(), day_began=self.gate.day_began(), texts=self.texts)

    async def count_day(self, archive: Archive) -> DayCounts:
        """How many calls all processes have sent in the present day, for the holder of the gate. Raises LedgerDown."""
        began = self.gate.day_began()
        return await archive.read(
            partial(calls_of_day, day_began=began, simulated=self.simulated, texts=self.texts)
        )

    def upstream(
        self, ledger: Ledger, *, timeout: float, threads: Pool, prove: Callable[[Caller], object]
    ) -> Upstream:
        """How attempts with its models are made."""
        runner = CallRunner(
            provider=self.provider,
            gate=self.gate,
            ledger=ledger,
            timeout=timeout,
            pictures=self.pictures.fetch,
            threads=threads,
            prove=prove,
        )
        return Upstream(runner, self.gate)

    async def aclose(self) -> None:
        """Close every connection."""
        await self.provider.aclose()
        await self.pictures.aclose()


def _partial_of(error: BaseException) -> Partial | None:
    """The part of the answer that had come when this error ended the call. A timeout has as its cause the error that
    ended the call."""
    return partial_of(error) or (None if error.__cause__ is None else partial_of(error.__cause__))


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
