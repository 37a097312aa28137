"""The running service: its parts, start, drain and close.

`build` creates the ledger and the provider according to the settings (`assembly.py`), and the rest
(`generations/core.py`) on a new loop thread. Call it after any fork.
"""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

import assembly
from admission.snapshot import GateStats
from auth import Authenticator
from cluster import AnyGate, burials
from concurrency import Gate
from contract.door_facts import REPLICATE
from contract.trainings import TRAINING
from doors.replicate.pushes import pushed
from errors import LedgerDown, LoopBlocked, NotFound, ShuttingDown, Starting
from files import Files
from files.weights import WeightsStore
from generations.archive import Archive
from generations.audit import Actor, noted
from generations.calls import Calls
from generations.connecting import connect
from generations.core import Core, FullProvider
from generations.figures import concurrency_figures
from generations.recovery import StartupState, load_startup_state
from generations.service import GenerationService
from generations.training_parts import TrainingUpstream
from generations.training_service import TrainingService
from generations.training_views import training
from ledger import HASH_KEY, Queries
from ledger.databases import backend
from ledger.queries import SqlQueries
from ledger.writer import Backend, SqlLedger
from loop_thread import LoopThread, Pool
from parsing.attachments import Attachments
from parsing.context import ParseContext
from parsing.limits import Limits
from rotation.accounts import CommonAccount
from rotation.building import common_account, secret_watch
from rotation.watch import SecretWatch
from settings import Settings, SettingsError
from telemetry import startup

if TYPE_CHECKING:
    from cluster.group import Group

NAME: Final = "replicate-concurrent-generation"
VERSION: Final = "0.8.0"

_FORECASTS_AT_ONCE: Final = 2
"""Forecasts and results of batches that are computed at once. Each uses the processor for a while, and health checks
must not wait for many."""

_LONGEST_BLOCK: Final = 10.0
"""Seconds without a sign of the event loop after which the process counts as dead."""

_RESTORED_WITHIN: Final = 10.0
"""Seconds for which a start waits for work of dead processes, if others share the ledger."""

_READERS: Final = 2
"""Reads of the ledger at once for the loop, besides forecasts."""

log = structlog.get_logger("service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One process of the service. Call `start` once and `close` at the end, in any thread."""

    settings: Settings
    loop: LoopThread
    core: Core
    others: Gate
    ledger: SqlLedger
    queries: Queries
    pools: tuple[Pool, ...]
    authenticator: Authenticator
    context: ParseContext
    attachments: Attachments
    uploads_dir: Path | None
    files: Files | None
    weights: WeightsStore
    group: "Group | None"
    secrets: SecretWatch
    account: CommonAccount
    started: float = field(default_factory=time.monotonic)
    restored: threading.Event = field(default_factory=threading.Event)
    """Set once the ledger was open and the work of earlier processes is resumed."""

    @property
    def generations(self) -> GenerationService:
        return self.core.generations

    @property
    def trainings(self) -> TrainingService:
        """Raises NotFound if this service runs none."""
        if self.core.trainings is None:
            raise NotFound("This service runs no trainings.")
        return self.core.trainings.service

    @property
    def gate(self) -> AnyGate:
        return self.core.gate

    def start(self) -> None:
        """Start serving, and resume the work in the ledger. Returns when the ledger is open or has failed to open."""
        if self.files:
            self.loop.run(self.files.start())
        self.ledger.start(on_open=self._restore, on_taken_over=self._end_process)
        self.loop.submit(self._tidy_up())
        self.loop.submit(self.secrets.run())
        self.loop.submit(self.core.models.run())
        self.loop.submit(self.weights.run())
        self.loop.submit(self.core.key_directory.run())
        self.loop.submit(self.core.text_retention.run())
        if self.core.retention:
            self.loop.submit(self.core.retention.run())

    def begin_drain(self, seconds: float, *, then: Callable[[], object] = lambda: None) -> None:
        """Stop accepting work and return at once. `then` is called, in another thread, when all work has ended.

        A second call with fewer seconds cuts the first one short. Signal handlers call it, and one may interrupt
        another at any line."""
        self.core.supervisor.refuse_work()
        if self.group:
            self.loop.submit(self.group.hand_over())
        self.loop.submit(self.core.supervisor.drain(seconds)).add_done_callback(lambda _: then())

    def close(self) -> None:
        """Interrupt running work, and end the loop thread. A second call does nothing."""
        if not self.loop.is_running:
            return
        try:
            self.loop.run(self._end())
        finally:
            self.loop.stop()
            self.ledger.close()

    @property
    def has_work(self) -> bool:
        """Whether work is unfinished here, or a webhook is not delivered. In any thread."""
        return self.core.supervisor.has_work or self.core.outbox.has_pending

    def raise_if_draining(self) -> None:
        if self.core.supervisor.is_draining:
            raise ShuttingDown

    def health(self) -> dict[str, Any]:
        """Raises ShuttingDown while draining, and LedgerDown. Never waits."""
        self.raise_if_draining()
        if self.ledger.trouble is not None:
            raise LedgerDown(self.ledger.trouble)
        return {"status": "healthy", "service": NAME, "version": VERSION}

    def live(self) -> dict[str, Any]:
        """Raises LoopBlocked if the event loop has done nothing for ten seconds. Needs neither the loop nor the ledger,
        and never waits."""
        if (seconds := self.loop.seconds_since_tick) > _LONGEST_BLOCK:
            raise LoopBlocked(f"The event loop has done nothing for {seconds:.0f} seconds.")
        return {"status": "live"}

    def ready(self) -> dict[str, Any]:
        """Raises ShuttingDown while draining, and Starting until the ledger was open once. If it fails later, the
        process stays ready, so that its own answers give callers the reason. Never waits."""
        self.raise_if_draining()
        if not self.restored.is_set():
            raise Starting(self.ledger.trouble or "")
        return {"status": "ready", "ledger": "ok" if self.ledger.trouble is None else "away"}

    def configure(
        self, limits: Limits, actor: Actor, *, disconnect: socket.socket | None = None
    ) -> dict[str, Any]:
        """Change the gate's limits, on disk and then in force. Returns its new statistics. Raises LedgerDown, and
        ClientDisconnected as `LoopThread.run` does; then the change goes on."""

        async def change() -> GateStats:
            act = actor.act("configure", "gate", limits.as_sent())
            async with noted(self.ledger, act):
                await self.core.configure(limits)
            return self.gate.statistics()

        return {
            "success": True,
            "concurrency": concurrency_figures(self.loop.run(change(), disconnect=disconnect)),
        }

    def seconds_per_release(self) -> float:
        return self.loop.call(self.gate.seconds_per_release)

    def _left_behind(self) -> StartupState:
        """The work of earlier processes. Blocks."""
        return load_startup_state(
            self.queries,
            self.core.recovery,
            self.authenticator.caller_of,
            process=self.ledger.process,
            limits=self.core.provider.limits,
            simulated=self.settings.REPLICATE_SIMULATE,
            now=time.time(),
        )

    def _restore(self) -> None:
        """Resume the work of earlier processes. In the ledger's thread, once it is open."""
        self.core.key_directory.load(self.queries)  # before their work
        state = self._left_behind_soon() if self.group else self._left_behind()
        hash_key, spent = self.queries.meta(HASH_KEY), self.core.budget.load(self.queries)
        limits, semaphores = self.core.limits.load(self.queries), self.core.semaphores.load(self.queries)
        calls = self.core.calls
        past = calls.read_past(self.queries) if calls else None

        def begin() -> None:
            self.authenticator.hash_key = hash_key
            self.core.key_directory.begin()
            self.core.semaphores.begin(semaphores)
            if calls:
                calls.begin(past)
            self.core.begin(state, spent=spent)
            self.core.limits.begin(limits)
            if self.group:
                self.group.start()
                self.group.run(self.core.run_shared())
                self.group.run(self._bury(self.group, is_due=state is None))

        self.loop.call(begin)
        # The next commit of this thread, before any caller requests suspended work, has its suspension.
        self.loop.call(self.ledger.hand_over)
        self.restored.set()
        self.loop.submit(self.account.run())
        if state is not None:
            _log_recovery(state)

    def _left_behind_soon(self) -> StartupState | None:
        """The work that this process has taken over from dead ones. None if uploads cannot be read soon: then it is
        resumed later, since the ledger's thread must show others that this process is alive."""
        reading = self.loop.submit(self.pools[0].run(self._left_behind))
        try:
            return reading.result(_RESTORED_WITHIN)
        except Exception as error:
            log.warning("recovery_delayed", reason=str(error) or "It takes long to read.")
            return None

    async def _bury(self, group: "Group", *, is_due: bool) -> None:
        """Take over the work of processes that die beside this one, until this one drains. `is_due` is whether some was
        taken over before."""

        async def bury() -> bool:
            return not self.core.supervisor.is_draining and await group.courier.bury()

        await burials.run(bury, self._resume_taken, pause=self.settings.PROCESS_TTL / 5, is_due=is_due)

    async def _resume_taken(self) -> None:
        """Resume work that this process has taken over. Raises LedgerDown."""
        if self.core.supervisor.is_draining:
            return
        await self.ledger.flush()  # so that what was resumed before is not resumed again
        state = await self.pools[0].run(self._left_behind)
        self.core.take_over(state)
        _log_recovery(state)

    def _end_process(self) -> None:
        """Refuse work, drain for 0 seconds and exit, as gunicorn.conf.py says. Another process has the work now."""
        log.error("ledger_taken_over")
        self.core.supervisor.refuse_work()
        os.kill(os.getpid(), signal.SIGQUIT)

    async def _tidy_up(self) -> None:
        """Run the periodic clean-up."""
        pause = min(60.0, max(1.0, self.settings.RESUME_TTL / 4))
        while True:
            self.attachments.tidy_up(self.queries.is_unfinished)
            await asyncio.sleep(pause)
            try:
                await self.generations.tidy_up(resume_ttl=self.settings.RESUME_TTL)
            except LedgerDown as down:
                log.warning("cleanup_failed", reason=str(down))
            except Exception:
                log.exception("cleanup_failed")

    async def _end(self) -> None:
        async with AsyncExitStack() as stack:
            for pool in self.pools:
                stack.callback(pool.close)
            stack.callback(self.attachments.close)
            stack.callback(self.secrets.close)
            if self.group:
                stack.push_async_callback(self.group.aclose)
            stack.push_async_callback(self.core.provider.aclose)
            if self.core.trainings:
                stack.push_async_callback(self.core.trainings.provider.aclose)
            stack.push_async_callback(self.weights.aclose)
            stack.push_async_callback(self.core.checks.aclose)
            stack.push_async_callback(self.core.runner.screening.aclose)
            if self.core.calls:
                stack.push_async_callback(self.core.calls.aclose)
            stack.push_async_callback(self.core.models.aclose)
            if self.files:
                stack.push_async_callback(self.files.aclose)
            stack.push_async_callback(self.core.outbox.aclose)
            await self.core.supervisor.drain(0)
            await self.generations.wait_for_responses()


def build(
    settings: Settings, *, provider: FullProvider | None = None, database: Backend | None = None
) -> Runtime:
    """Build the service from settings, with another `provider` than Replicate and another `database` than theirs if
    they are not None. It does not serve before `start`. Raises SettingsError."""
    if settings.needs_simulator:
        raise SettingsError("REPLICATE_SIMULATE: only `python app.py` starts a simulator.")
    settings.check_for_start()
    startup.warn(settings)
    authenticator, context = assembly.authenticator(settings), assembly.context(settings)
    database = database or assembly.database(settings, VERSION)
    ledger = SqlLedger(database)
    queries = SqlQueries(ledger.engine)
    uploads = assembly.uploads_dir(settings)
    attachments = Attachments(assembly.uploads(settings, uploads), spool=uploads)
    loop = LoopThread("generations").start()

    async def on_the_loop() -> Runtime:
        gate, others, group = assembly.gates(settings, database, ledger)
        threads, cpu = assembly.pool("ledger-reader", _READERS), assembly.pool("forecast", _FORECASTS_AT_ONCE)
        of_keys = Pool(ThreadPoolExecutor(1, thread_name_prefix="keys-reader"))
        files = assembly.open_files(settings)
        metered, simulated = assembly.metered_gate(settings, gate, group), settings.REPLICATE_SIMULATE
        gemini = assembly.gemini(settings, metered, ledger, authenticator)
        calls = Calls.of(gemini, metered, context.texts, threads=cpu, simulated=simulated)
        judge, weights = assembly.judge(settings), assembly.open_weights(settings)
        replicate = provider or assembly.replicate(settings, gate, others, ledger, threads)
        core = Core(
            settings, calls=calls, ledger=ledger, queries=queries, gate=gate, threads=threads, cpu=cpu,
            provider=replicate, upstream=TrainingUpstream(assembly.trainings(replicate), weights),
            authenticator=authenticator, attachments=attachments, context=context,
            tariff=assembly.tariff(settings), outputs=files, letters=group.letters if group else None,
            doors={REPLICATE: pushed, TRAINING: training}, judge=judge,
        )  # fmt: skip
        archive = core.key_directory.archive = Archive(ledger=ledger, queries=queries, threads=of_keys)
        account = common_account(settings, core.provider, authenticator, core.payers, ledger, archive.read)
        if group:
            connect(core, group, others, account)
        return Runtime(
            settings=settings, loop=loop, core=core, others=others, ledger=ledger, queries=queries,
            pools=(threads, cpu, of_keys), authenticator=authenticator, context=context, attachments=attachments,
            uploads_dir=uploads, files=files, weights=weights, group=group, account=account,
            secrets=secret_watch(settings, authenticator, core.outbox.secrets, core.provider, database, judge),
        )  # fmt: skip

    try:
        return loop.run(on_the_loop())
    except BaseException:
        loop.stop()
        raise


def started(settings: Settings, *, provider: FullProvider | None = None) -> Runtime:
    """Build the service and start it. Raises SettingsError."""
    runtime = build(settings, provider=provider)
    try:
        runtime.start()
    except BaseException:
        runtime.close()
        raise
    return runtime


def check(settings: Settings) -> None:
    """Check the settings as far as possible without starting anything. Raises SettingsError."""
    settings.check_for_start()
    assembly.context(settings)
    assembly.storage(settings)
    assembly.call_limits(settings)
    backend(settings.database_url)
    assembly.make_data_dir(settings)


def _log_recovery(state: StartupState) -> None:
    resumed = len(state.restored.running)
    if resumed or state.suspended:
        log.info("recovery_completed", going_on=resumed, waiting_for_owner=len(state.suspended))
