"""Builds the part of the service that runs on the event loop, from a ledger and a provider."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Protocol

from admission.sliding_window import WINDOW
from auth import Authenticator
from catalog.tariff import PUBLISHED, Tariff
from cluster import AnyGate, probes
from cluster.figures import ProcessFigures
from cluster.letters import Letters
from concurrency import Gate
from contract.door_facts import REPLICATE
from contract.ids import is_training_id
from contract.providers import CALLS, CREATIONS, TRAININGS
from errors import TokenRejected
from files import Files
from generations import parts
from generations.archive import NO_DOORS, Archive, Body
from generations.attempt import AttemptRunner
from generations.budgets import Spent
from generations.calls import Calls
from generations.claiming import Claims
from generations.creations import LatestVersions
from generations.deadline import Bounds
from generations.door_calls import StartWebhooks
from generations.elsewhere import Elsewhere
from generations.events import Events
from generations.figures import WorkFigures, figures_of
from generations.finding import Finder
from generations.following import JoinedItems
from generations.idempotency import IdempotencyKeys
from generations.key_directory import KeyDirectory
from generations.key_limits import KeyLimits
from generations.keys import NamedKeys
from generations.late import LatePredictions
from generations.lifecycle import Runner
from generations.limits import ConfiguredLimits
from generations.lost_calls import LostCalls
from generations.past import seconds_in_doubt
from generations.push import PushInbox
from generations.recovery import StartupState
from generations.remote import Remote
from generations.retries import FIRST_BACKOFF
from generations.screening import Screening
from generations.semaphores import NamedSemaphores
from generations.service import GenerationService
from generations.shared import SharedLimits, SharedSemaphores, keep_fresh
from generations.status import Status
from generations.supervisor import Supervisor
from generations.suspension import Suspension
from generations.training_parts import NO_TRAININGS, TrainingUpstream
from generations.upstreams import Upstream, Upstreams
from ledger import Ledger, Queries
from loop_thread import Pool
from parsing.attachments import Attachments
from parsing.context import ParseContext
from parsing.limits import Limits
from providers import AccountSource, CreationRegistry, Measures, ProgressSource, Provider
from providers.models import ModelSource
from providers.pushes import PushReceiver
from providers.several import RunProviders
from providers.token_checks import TokenChecks
from safety.judging import Judge
from settings import Settings


class FullProvider(
    Provider, PushReceiver, CreationRegistry, ProgressSource, AccountSource, ModelSource, Protocol
):
    """A provider that implements every provider protocol."""


class Core:
    """The part of the service that runs on the loop. Make it on the loop; it starts nothing.

    The ledger is read on `threads`. Forecasts and results of batches, which take longer to compute, run on `cpu`, so no
    query waits for them. `letters` are those to other processes, if several share the ledger.
    `doors` make the bodies of webhooks for generations that came by a door, by its name. `calls` runs text models,
    `judge` judges prompts, and `upstream` runs trainings.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger,
        queries: Queries,
        provider: FullProvider,
        gate: AnyGate,
        threads: Pool,
        cpu: Pool,
        authenticator: Authenticator,
        attachments: Attachments,
        context: ParseContext,
        tariff: Tariff = PUBLISHED,
        outputs: Files | None = None,
        first_backoff: float = FIRST_BACKOFF,
        letters: Letters | None = None,
        doors: Mapping[str, Body] = NO_DOORS,
        calls: Calls | None = None,
        judge: Judge | None = None,
        upstream: TrainingUpstream = NO_TRAININGS,
    ) -> None:
        archive = Archive(ledger=ledger, queries=queries, threads=threads, doors=doors)
        self._doors, self.calls, self._call_gate = doors, calls, calls.gate if calls else None
        keys, check = IdempotencyKeys(ledger=ledger, archive=archive), Screening(ledger, judge)
        self._process, self.gate, self.provider, self.letters = ledger.process, gate, provider, letters
        self.limits = ConfiguredLimits(settings, gate=gate, ledger=ledger, calls=self._call_gate)
        self.processes: Callable[[], Sequence[ProcessFigures]] = tuple
        """The processes that share the ledger, with the figures that each publishes. Empty if there can be only one."""
        self.budget = parts.budgets(settings, ledger, archive, authenticator)
        self._learned = parts.learned(settings, ledger, archive)
        self.payers = parts.payers(settings, ledger, provider, authenticator)
        known = parts.known_models(settings, ledger, archive, context, provider, authenticator, tariff)
        self.models, self.resolver, self.pages = known.models, known.resolver, known.pages
        self._known, self.runs = known, RunProviders(provider, upstream.provider or provider)
        self.checks = TokenChecks(provider, clock=asyncio.get_running_loop().time)
        self.outbox = parts.outbox(settings, ledger, archive, authenticator)
        self.recovery = parts.recovery(attachments, context, queries, known)
        self.trainings = known.kinds.trainings(upstream, self.budget, self.payers, provider.tokens.token_of)
        self.runner = self._runner(settings, ledger, archive, outputs, first_backoff, cpu, check)
        self.supervisor = self._supervisor(settings, ledger, keys, attachments, parts.joined(archive))
        self.keys = self._keys(ledger, archive, authenticator)
        self.suspension = self._suspension(ledger, archive)
        remote = None if letters is None else Remote(letters, self.supervisor, ledger)
        self.semaphores = self._semaphores(ledger, archive)
        self.shared_limits = None if letters is None else SharedLimits(self.limits, archive, letters)
        self.generations = self._service(ledger, archive, keys, cpu, remote)
        self.lost_calls = LostCalls(service=self.generations, ledger=ledger, archive=archive)
        self.retention, self.text_retention = parts.retentions(settings, ledger, archive, context)
        self.push = self._push(archive, authenticator, remote)

    @property
    def key_directory(self) -> KeyDirectory:
        return self.keys.directory

    def figures(self, others: Gate) -> WorkFigures:
        """The figures of the work in this process. `others` is the gate of requests that create nothing."""
        return figures_of(self.supervisor, self.runner, self.provider, others)

    def published(self, others: Gate) -> Mapping[str, object]:
        """What this process publishes to the others on the ledger, as JSON."""
        return {
            **self.figures(others).as_json(),
            **self.supervisor.key_limits.published(self.supervisor.running.queued()),
            "environment": dict(self.limits.own),
            "measured": asdict(self.provider.measured),
            "trained": self._known.kinds.trained.count,
        }

    def read_published(self, processes: Sequence[ProcessFigures]) -> None:
        """Use what the processes on the ledger have published."""
        self.supervisor.key_limits.read([each for each in processes if each.id != self._process])
        others = {each.id: each.figures.get("trained", 0) for each in processes if each.id != self._process}
        if self._known.kinds.trained.meet(others):
            self.models.read_again()
        for each in processes:
            if each.holds_gate and (environment := each.figures.get("environment")):
                self.limits.follow(environment)
            if each.id != self._process and (measured := each.figures.get("measured")):
                skew, ahead = measured["clock_skew"], each.clock_ahead
                to_ours = None if skew is None or ahead is None else skew + ahead
                self.provider.learn(Measures(to_ours, measured["list_lags"]))

    async def configure(self, limits: Limits) -> None:
        """Change the gate's limits, in every process that shares the ledger. Raises LedgerDown."""
        await (self.shared_limits or self.limits).change(limits)

    async def run_shared(self) -> None:
        """Exchange letters and common values with the other processes until it is cancelled, if there can be any."""
        if self.letters is not None and self.shared_limits is not None:
            assert isinstance(self.semaphores, SharedSemaphores)  # noqa: S101 - there are letters
            await asyncio.gather(
                self.letters.run(),
                keep_fresh(self.shared_limits, self.semaphores),
                probes.run(self.gate, self._probe),
            )

    async def _probe(self) -> None:
        """Ask the upstream for the account of a caller whose work waits here, if there is one."""
        waiting = next(self.supervisor.running.queued(), None)
        if waiting is not None:
            with suppress(TokenRejected):  # that is an answer, too
                await self.provider.account_of(waiting.caller)

    def begin(self, state: StartupState | None, *, spent: Spent) -> None:
        """Resume the work of earlier processes, unless it comes later by `take_over`. `spent` is what they have spent
        of the budgets."""
        self.budget.begin(spent)
        if state is None:
            return
        for caller, ago in state.answered_ago.items():
            self.gate.count(ago, caller)
        for each in state.uncertain:
            seconds = seconds_in_doubt(each.since, now=time.time())
            if seconds > -WINDOW and not is_training_id(each.reference):
                self.gate.expect(each.reference, seconds)
        self.take_over(state)

    def take_over(self, state: StartupState) -> None:
        """Resume the work of earlier processes, or of one that died beside this one. Their places at the gate are not
        counted again."""
        self.payers.read(state.payers)
        self.runs.register_known(state.prediction_ids)
        self.runs.register_uncertain(state.uncertain)
        self.suspension.resume(state.restored)
        self.suspension.suspend(state.suspended)
        restored = state.restored
        self.lost_calls.take_over([*restored.running, *restored.batches, *state.suspended])
        for delivery in state.deliveries:
            self.outbox.take(delivery)

    def _runner(
        self,
        settings: Settings,
        ledger: Ledger,
        archive: Archive,
        outputs: Files | None,
        first_backoff: float,
        cpu: Pool,
        screening: Screening,
    ) -> Runner:
        attempts = AttemptRunner(
            provider=self.provider,
            gate=self.gate,
            ledger=ledger,
            late=LatePredictions(provider=self.provider, ledger=ledger, archive=archive, budget=self.budget),
            bounds=Bounds(settings.GENERATION_START_TIMEOUT, settings.GENERATION_TIMEOUT),
            latest=LatestVersions(self.models),
            payers=self.payers,
            push_url=settings.PUBLIC_URL if settings.webhooks_come else None,
        )
        upstreams = {CREATIONS: Upstream(attempts, self.gate)}
        if self.calls is not None:
            upstreams[CALLS] = self.calls.upstream(
                ledger, timeout=settings.GENERATION_TIMEOUT, threads=cpu, prove=self.checks.prove
            )
        if self.trainings is not None:
            upstreams[TRAININGS] = self.trainings.upstream
        return Runner(
            upstreams=Upstreams(upstreams),
            ledger=ledger,
            budget=self.budget,
            outbox=self.outbox,
            outputs=outputs,
            learned=self._learned,
            allowed=self._known.allowed,
            starts=StartWebhooks(self.outbox, body) if (body := self._doors.get(REPLICATE)) else None,
            screening=screening,
            first_backoff=first_backoff,
        )

    def _supervisor(
        self,
        settings: Settings,
        ledger: Ledger,
        keys: IdempotencyKeys,
        attachments: Attachments,
        joined: JoinedItems,
    ) -> Supervisor:
        return Supervisor(
            runner=self.runner,
            gate=self.gate,
            ledger=ledger,
            budget=self.budget,
            keys=keys,
            attachments=attachments,
            max_queued=settings.MAX_QUEUED,
            key_limits=KeyLimits(self.gate, self._call_gate),
            joined=joined,
        )

    def _suspension(self, ledger: Ledger, archive: Archive) -> Suspension:
        return Suspension(
            supervisor=self.supervisor,
            archive=archive,
            recovery=self.recovery,
            checks=self.checks,
            ledger=ledger,
            budget=self.budget,
            outbox=self.outbox,
        )

    def _semaphores(self, ledger: Ledger, archive: Archive) -> NamedSemaphores | SharedSemaphores:
        def of(gate: Gate) -> NamedSemaphores:
            return NamedSemaphores(gate, ledger, archive, self.supervisor)

        if self.letters is None:
            assert isinstance(self.gate, Gate)  # noqa: S101 - there is no other process
            return of(self.gate)
        return SharedSemaphores(self.gate, archive, self.letters, of)

    def _keys(self, ledger: Ledger, archive: Archive, authenticator: Authenticator) -> NamedKeys:
        """The service of named keys, which `authenticator` finds in its directory from now on."""
        directory = KeyDirectory(archive=archive, ledger=ledger, supervisor=self.supervisor)
        directory.on_change(self.supervisor.key_limits.apply)
        authenticator.keys = directory
        return NamedKeys(
            ledger=ledger,
            archive=archive,
            directory=directory,
            budgets=self.budget.keys,
            digest=authenticator.keyed_hash,
            webhook_secrets=self.outbox.secrets,
            letters=self.letters,
        )

    def _push(self, archive: Archive, authenticator: Authenticator, remote: Remote | None) -> PushInbox:
        push = PushInbox(
            supervisor=self.supervisor,
            archive=archive,
            providers=self.runs,
            authenticator=authenticator,
            remote=remote,
        )
        if remote is not None:
            remote.serve(describe=self.generations.describe, push=push.take)
        return push

    def _service(
        self,
        ledger: Ledger,
        archive: Archive,
        keys: IdempotencyKeys,
        cpu: Pool,
        remote: Remote | None,
    ) -> GenerationService:
        status = Status(
            supervisor=self.supervisor,
            gate=self.gate,
            threads=cpu,
            learned=self._learned,
            calls=self._call_gate,
            trainings=self.trainings.gate if self.trainings else None,
        )
        progress = self.supervisor.joined.progress
        elsewhere = Elsewhere(supervisor=self.supervisor, archive=archive, ledger=ledger, progress=progress)
        finder = Finder(
            supervisor=self.supervisor,
            suspension=self.suspension,
            archive=archive,
            elsewhere=elsewhere,
            ledger=ledger,
        )
        events = Events(
            supervisor=self.supervisor,
            elsewhere=elsewhere,
            ledger=ledger,
            providers=self.runs,
            status=status,
        )
        return GenerationService(
            supervisor=self.supervisor,
            suspension=self.suspension,
            archive=archive,
            keys=keys,
            claims=Claims(keys=keys, finder=finder, status=status, ledger=ledger),
            finder=finder,
            elsewhere=elsewhere,
            remote=remote,
            budget=self.budget,
            status=status,
            events=events,
            outbox=self.outbox,
            ledger=ledger,
        )
