"""The running service: what is wired together, and its start, drain and end.

Made in the process that serves, after any fork: it starts the loop thread. Its methods may be called from
any thread; what they touch lives on the loop.
"""

import asyncio
import concurrent.futures
import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, closing
from functools import partial
from typing import Any

import structlog

from admission.durations import Durations
from admission.forecast import Item, Plan, plan
from admission.sliding_window import WINDOW
from auth import Caller, Doors
from budget import Budget
from callbacks import Callbacks, Unheard
from concurrency import Gate, GateStats
from desk import Desk
from errors import LedgerDown, ShuttingDown
from events import Events
from files import Files
from generation import Generations
from intake.attachments import UPLOADED, Attachments
from intake.parsing import Terms
from intake.shapes import BatchRequest, Limits
from interrupted import InterruptedWork
from lookup import Lookup
from loop_thread import LoopThread, Pool
from providers.replicate import Replicate
from reception import Reception
from records import Batch, Work
from recovery import Recovery, inherit
from resources import fallbacks, storage, uploads_dir
from settings import FILES_AT_ONCE, HANDED_IN_AT_ONCE, LISTENERS_AT_ONCE, Settings, SettingsError
from standing import Standing
from store import Ledger
from waiting import Seats
from window_log import WindowLog

NAME = "replicate-concurrent-generation"
VERSION = "0.4.0"

_THINKING = 2
"""Large bodies and batches that are read and planned at once: one takes the processor for a while, and health checks
must not wait for many."""

_OTHERS_AT_ONCE = 200
"""Requests under way that create nothing. Beyond this, more of them only wait at the other end."""

_HASH_KEY = "caller hash key"
_READERS = 2
"""How many of the loop's questions to the ledger are asked at once."""

log = structlog.get_logger("service")


class Service:
    """Everything one process of the service has. `close` it when done."""

    def __init__(self, settings: Settings) -> None:
        if settings.needs_simulator:
            raise SettingsError("REPLICATE_SIMULATE: only `python app.py` starts a simulator; run that.")
        self.settings = settings
        self.doors = Doors(admin_key=settings.admin_key, server_token=settings.replicate_token)
        self.doors.hash_key = None  # the ledger has it
        self.terms = Terms(fallbacks(settings), loopback=settings.REPLICATE_SIMULATE)
        self.seats = Seats(settings.MAX_WAITING_CALLERS, taken_by="callers are waiting for a result")
        self.brief_seats = Seats(HANDED_IN_AT_ONCE, taken_by="callers are handing in work")
        self.thinking = threading.BoundedSemaphore(_THINKING)
        self.file_seats = Seats(FILES_AT_ONCE, taken_by="files are on their way to callers")
        self.listener_seats = Seats(LISTENERS_AT_ONCE, taken_by="callers are listening to events")
        self.uploads_dir = uploads_dir(settings)
        self.attachments = Attachments(self.uploads_dir)
        self.ledger = Ledger(settings.database_url, on_open=self._take_over)
        self.lookup = Lookup(self.ledger.engine)
        self.loop = LoopThread("generations").start()
        self._started = time.monotonic()
        self._closed = False
        self._drained: concurrent.futures.Future[None] | None = None
        self._window_logs = ExitStack()
        try:
            self.loop.call(self._build)
            if self.files:
                self.loop.submit(self.files.start()).result()
            self.ledger.start()
        except BaseException:
            self._window_logs.close()
            self.loop.stop()
            raise
        self._janitor = self.loop.submit(self._tidy_up())

    def _build(self) -> None:
        settings, durations = self.settings, Durations()
        self.gate = Gate(
            concurrent_limit=settings.REPLICATE_CONCURRENT_LIMIT,
            requests_per_minute=settings.REPLICATE_REQUESTS_PER_MINUTE,
            interactive_reserve=settings.INTERACTIVE_RESERVE,
            durations=durations,
        )
        self._others = Gate(
            concurrent_limit=_OTHERS_AT_ONCE,
            requests_per_minute=settings.REPLICATE_OTHER_REQUESTS_PER_MINUTE,
        )
        self._resume(self._others, "others")
        self._provider = Replicate(
            base_url=settings.REPLICATE_BASE_URL, others=self._others, durations=durations
        )
        self.files = self._open_files()
        self.budget = Budget(settings.BUDGET_USD_PER_DAY)
        self.callbacks = Callbacks(
            write=partial(self.ledger.put, "deliveries"),
            content=self._content,
            secret=settings.webhook_secret,
            loopback=settings.REPLICATE_SIMULATE,
        )
        self.generations = Generations(
            provider=self._provider,
            gate=self.gate,
            ledger=self.ledger,
            budget=self.budget,
            keeper=self.files,
            timeout=settings.GENERATION_TIMEOUT,
            max_queued=settings.MAX_QUEUED,
            callback=self._callback_url if settings.webhooks_come else None,
            deliver=self.callbacks.take,
            let_go=self._let_go,
        )
        self._recovery = Recovery(attachments=self.attachments, terms=self.terms)
        self._threads = Pool(ThreadPoolExecutor(_READERS, thread_name_prefix="ledger-reader"))
        self._interrupted = InterruptedWork(
            generations=self.generations,
            ledger=self.ledger,
            lookup=self.lookup,
            recovery=self._recovery,
            budget=self.budget,
            deliver=self.callbacks.take,
            forget=self._forget,
            threads=self._threads,
        )
        self.desk = Desk(
            generations=self.generations,
            ledger=self.ledger,
            lookup=self.lookup,
            recovery=self._recovery,
            interrupted=self._interrupted,
            threads=self._threads,
            forget=self._forget,
            resume_ttl=settings.RESUME_TTL,
        )
        standing = Standing(generations=self.generations, gate=self.gate)
        self.reception = Reception(
            loop=self.loop,
            desk=self.desk,
            standing=standing,
            events=Events(
                generations=self.generations, ledger=self.ledger, provider=self._provider, standing=standing
            ),
            ledger=self.ledger,
            lookup=self.lookup,
            provider=self._provider,
            callbacks=self.callbacks,
            attachments=self.attachments,
            doors=self.doors,
            simulated=self._simulated,
        )

    def _open_files(self) -> Files | None:
        settings = self.settings
        if not settings.FILES_TTL:
            return None
        return Files(
            storage=storage(settings),
            spool=settings.files_dir,
            upstream=settings.REPLICATE_BASE_URL,
            ttl=settings.FILES_TTL,
            max_bytes=settings.FILES_MAX_BYTES,
        )

    def _resume(self, gate: Gate, name: str) -> None:
        """Let a gate go on with the window that the process before left, if one can be kept."""
        path = self.settings.DATA_DIR / f"{name}.window"
        try:
            window_log = WindowLog(path, of=self.settings.REPLICATE_BASE_URL, window=WINDOW)
        except OSError as error:
            log.warning("limits_not_kept", path=str(path), reason=str(error))
            return
        self._window_logs.enter_context(closing(window_log))
        if window_log.is_shared:
            log.warning("limits_shared", path=str(path), reason="another process ends, or spends the same")
        if not window_log.is_readable:
            log.warning("limits_unknown", path=str(path), reason="the window counts as spent just now")
        gate.resume(window_log)

    # ── The ledger, from one process to the next

    def _take_over(self) -> None:
        """Begin with what the ledger has. In its own thread, once it is open."""
        now = time.time()
        inherited = inherit(
            self.lookup, self._recovery, self.doors.admin(), simulated=self._simulated, now=now
        )
        self.attachments.sweep(inherited.files_of)
        spent_today = self.lookup.cost_since(self.budget.day_began, simulated=self._simulated)
        hash_key = self.lookup.meta(_HASH_KEY)

        def begin() -> None:
            self.doors.hash_key = hash_key or secrets.token_bytes(32)
            self.ledger.put("meta", {"name": _HASH_KEY, "value": self.doors.hash_key})
            self.gate.count(inherited.answered_ago)
            self._provider.know(inherited.prediction_ids)
            for doubt in inherited.in_doubt:
                self._provider.lose(
                    doubt.reference, doubt.caller, doubt.model, content=doubt.content, since=doubt.since
                )
            self._interrupted.resume(inherited.left)
            self._interrupted.wait(inherited.waiting)
            self.budget.begin(spent=spent_today + inherited.lost_usd)
            for delivery in inherited.deliveries:
                self.callbacks.take(delivery)

        self.loop.call(begin)
        if inherited.going_on or inherited.waiting:
            log.info("taken_over", going_on=inherited.going_on, waiting_for_owner=len(inherited.waiting))

    @property
    def _simulated(self) -> bool:
        return self.settings.REPLICATE_SIMULATE

    async def _tidy_up(self) -> None:
        """Now and then, what time alone brings about."""
        pause = min(60.0, max(1.0, self.settings.RESUME_TTL / 4))
        while True:
            await asyncio.sleep(pause)
            try:
                await self.desk.tidy_up()
            except LedgerDown as down:
                log.warning("not_tidied_up", reason=str(down))
            except Exception:
                log.exception("not_tidied_up")

    async def _content(self, target: str) -> bytes | None:
        """What a caller's webhook is told."""
        try:
            await self.ledger.synced()  # or the end it is to tell of may not be found
        except LedgerDown:
            raise Unheard("what there is to tell is not on the disk yet") from None
        work = await self.desk.find(target)
        if work is None or not work.has_ended:
            return None
        return await self._threads.run(lambda: json.dumps(work.result(work.view)).encode())

    def _callback_url(self, generation_id: str, attempt: int) -> str:
        return f"{self.settings.PUBLIC_URL}/webhooks/replicate?generation={generation_id}&attempt={attempt}"

    def _let_go(self, work: Work) -> None:
        """It has ended: what only it needed can go. On the loop."""
        self.desk.keys.release(work.id)
        if isinstance(work, Batch) or UPLOADED in (work.written or ""):
            self._forget([work.id])

    def _forget(self, owners: Sequence[str]) -> None:
        """Nobody needs the files any more that came with these. On the loop."""
        self.loop.in_background(partial(self.attachments.remove, *owners))

    @property
    def is_draining(self) -> bool:
        return self._drained is not None

    def raise_if_draining(self) -> None:
        if self.is_draining:
            raise ShuttingDown(retry_after=5)

    def health(self) -> dict[str, Any]:
        """Raises ShuttingDown while draining, and LedgerDown; asks nobody and waits on nothing."""
        self.raise_if_draining()
        if self.ledger.trouble is not None:
            raise LedgerDown(self.ledger.trouble)
        return {"status": "healthy", "service": NAME, "version": VERSION}

    def status(self) -> dict[str, Any]:
        """The live figures, as `GET /status` promises them. No secrets."""
        gate, others, ended = self.loop.call(self._figures)
        return {
            "service": NAME,
            "version": VERSION,
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "simulated": self.settings.REPLICATE_SIMULATE,
            "admin_api_configured": self.settings.admin_key is not None,
            "default_replicate_token_configured": self.settings.replicate_token is not None,
            "concurrency": concurrency_figures(gate),
            "polling": {
                "requests_per_minute_limit": others.requests_per_minute_limit,
                "current_rate_per_minute": others.current_rate_per_minute,
            },
            "generations": ended,
        }

    def configure(self, limits: Limits) -> dict[str, Any]:
        """Change the gate's limits at once, and tell how it stands then."""

        def change() -> GateStats:
            self.gate.configure(**limits.model_dump())
            return self.gate.statistics()

        return {"success": True, "concurrency": concurrency_figures(self.loop.call(change))}

    def plan(self, wanted: BatchRequest, caller: Caller, *, may_be_here: bool = False) -> Plan:
        """How a batch would go now. Raises QueueFull or ShuttingDown if it would not be taken; one that `may_be_here`,
        under its key, needs no room for that."""
        room = 0 if may_be_here else len(wanted.requests)
        return plan(
            _items(wanted),
            self.loop.call(partial(self.generations.snapshot, room)),
            self.gate.durations,
            caller=caller.id,
            max_concurrent=wanted.max_concurrent,
        )

    def seconds_per_release(self) -> float:
        return self.loop.call(self.gate.seconds_per_release)

    def begin_drain(self, seconds: float, *, then: Callable[[], object] = lambda: None) -> None:
        """Stop taking work and return at once; `then` is called, in another thread, when all has ended.

        A second call with less patience cuts the first one short.
        """
        self._drained = self.loop.submit(self.generations.drain(seconds))
        self._drained.add_done_callback(lambda _: then())

    def close(self) -> None:
        """End at once what is left, and the loop thread with it. Twice is no error."""
        if not self._closed:
            self._closed = True
            try:
                self.loop.submit(self._end()).result()
            finally:
                self.loop.stop()
                self.ledger.close()
                self._window_logs.close()

    async def _end(self) -> None:
        async with AsyncExitStack() as stack:
            stack.callback(self._threads.close)
            stack.push_async_callback(self._provider.aclose)
            if self.files:
                stack.push_async_callback(self.files.aclose)
            stack.push_async_callback(self.callbacks.aclose)
            await self.generations.drain(0)
            await self.desk.answered()

    def _figures(self) -> tuple[GateStats, GateStats, dict[str, int]]:
        return self.gate.statistics(), self._others.statistics(), self.generations.tally.as_json()


def concurrency_figures(gate: GateStats) -> dict[str, Any]:
    return {
        "concurrent_limit": gate.concurrent_limit,
        "current_concurrent": gate.current_concurrent,
        "available_slots": gate.available_slots,
        "waiting": gate.waiting,
        "requests_per_minute_limit": gate.requests_per_minute_limit,
        "current_rate_per_minute": gate.current_rate_per_minute,
        "paused_seconds": round(gate.paused_seconds, 1),
    }


def _items(wanted: BatchRequest) -> list[Item]:
    """What there is to do, as far as a plan needs to know."""
    return [
        Item(each.model.name, each.model.usual_seconds, each.model.cost(each.first.input), each.model.credits)
        for each in wanted.requests
    ]
