"""The part of the service that runs on one event loop, built from a given ledger and provider."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from admission.sliding_window import WINDOW
from auth import ADMIN, Authenticator
from concurrency import Gate
from files import Files
from generations.archive import Archive
from generations.attempt import AttemptRunner
from generations.budget import Budget
from generations.events import Events
from generations.idempotency import IdempotencyKeys
from generations.late import LatePredictions
from generations.lifecycle import FIRST_BACKOFF, Runner
from generations.push import PushInbox
from generations.recovery import Recovery, StartupState, seconds_in_doubt
from generations.retention import Retention
from generations.service import GenerationService
from generations.status import Status
from generations.supervisor import Supervisor
from generations.suspension import Suspension
from ledger import Ledger, Queries
from loop_thread import Pool
from parsing.attachments import Attachments
from parsing.generation import ParseContext
from providers import AccountSource, CreationRegistry, ProgressSource, Provider, PushReceiver
from providers.token_checks import TokenChecks
from settings import Settings
from webhooks.outbox import Outbox


class FullProvider(Provider, PushReceiver, CreationRegistry, ProgressSource, AccountSource, Protocol):
    """A provider with every ability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The part of the service that runs on the loop."""

    gate: Gate
    provider: FullProvider
    budget: Budget
    ledger: Ledger
    outbox: Outbox
    runner: Runner
    supervisor: Supervisor
    suspension: Suspension
    recovery: Recovery
    generations: GenerationService
    push: PushInbox
    checks: TokenChecks
    retention: Retention | None

    def begin(self, state: StartupState, *, spent: Mapping[int, float]) -> None:
        """Resume the work of earlier processes. `spent`: USD by day, counted from 1970, of the server's own money."""
        self.gate.count(state.answered_ago)
        self.provider.register_known(state.prediction_ids)
        for each in state.uncertain:
            self.provider.register_uncertain(each)
            if (seconds := seconds_in_doubt(each.since, now=time.time())) > -WINDOW:
                self.gate.expect(each.reference, seconds)
        self.suspension.resume(state.restored)
        self.suspension.suspend(state.suspended)
        self.budget.begin(spent)
        self.budget.settle(ADMIN, reserved=0.0, cost=state.ended_usd)
        for delivery in state.deliveries:
            self.outbox.take(delivery)


def assemble(
    settings: Settings,
    *,
    ledger: Ledger,
    queries: Queries,
    provider: FullProvider,
    gate: Gate,
    threads: Pool,
    cpu: Pool,
    authenticator: Authenticator,
    attachments: Attachments,
    context: ParseContext,
    outputs: Files | None = None,
    first_backoff: float = FIRST_BACKOFF,
) -> Core:
    """Build the part that runs on the loop. Call it on that loop; it starts nothing.

    The ledger is read on `threads`. Forecasts and the results of large batches, which take the processor for a while,
    are made on `cpu`, so that no look-up waits for them."""
    budget = Budget(settings.BUDGET_USD_PER_DAY)
    recovery = Recovery(attachments=attachments, context=context)
    checks = TokenChecks(provider, clock=asyncio.get_running_loop().time)
    archive = Archive(ledger=ledger, queries=queries, threads=threads)
    keys = IdempotencyKeys(ledger=ledger, archive=archive)
    outbox = Outbox(
        ledger=ledger,
        content=archive.result,
        secret=settings.webhook_secret,
        loopback=settings.REPLICATE_SIMULATE,
        own=settings.webhook_hosts,
    )
    attempts = AttemptRunner(
        provider=provider,
        gate=gate,
        ledger=ledger,
        late=LatePredictions(provider=provider, ledger=ledger, archive=archive, budget=budget),
        timeout=settings.GENERATION_TIMEOUT,
        push_url=settings.PUBLIC_URL if settings.webhooks_come else None,
    )
    runner = Runner(
        attempts=attempts,
        gate=gate,
        ledger=ledger,
        budget=budget,
        outbox=outbox,
        outputs=outputs,
        first_backoff=first_backoff,
    )
    supervisor = Supervisor(
        runner=runner,
        gate=gate,
        ledger=ledger,
        budget=budget,
        keys=keys,
        attachments=attachments,
        threads=threads,
        max_queued=settings.MAX_QUEUED,
    )
    suspension = Suspension(
        supervisor=supervisor,
        archive=archive,
        recovery=recovery,
        checks=checks,
        ledger=ledger,
        outbox=outbox,
    )
    status = Status(supervisor=supervisor, gate=gate, threads=cpu)
    return Core(
        gate=gate,
        provider=provider,
        budget=budget,
        ledger=ledger,
        outbox=outbox,
        runner=runner,
        supervisor=supervisor,
        suspension=suspension,
        recovery=recovery,
        generations=GenerationService(
            supervisor=supervisor,
            suspension=suspension,
            archive=archive,
            keys=keys,
            status=status,
            events=Events(supervisor=supervisor, ledger=ledger, provider=provider, status=status),
            outbox=outbox,
            ledger=ledger,
        ),
        checks=checks,
        retention=None
        if settings.LEDGER_KEEP_DAYS is None
        else Retention(
            ledger=ledger,
            archive=archive,
            days=settings.LEDGER_KEEP_DAYS,
            files_ttl=settings.FILES_TTL,
        ),
        push=PushInbox(
            supervisor=supervisor, archive=archive, provider=provider, authenticator=authenticator
        ),
    )
