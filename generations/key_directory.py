"""All named keys in the memory of this process, so that no request reads the ledger for its key.

One read each two seconds finds the keys that any process has changed since the last read. Keys that were read less
than two seconds ago are *fresh*. Otherwise a request waits for a read, which begins after it came. So a key that is
deleted is refused within two seconds, also if a process stood still meanwhile.

The work of a key that is deleted or has expired is cancelled if it still waits. What runs goes on.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from math import inf
from typing import Final

import structlog

from contract.callers import KEY_PREFIX
from errors import LedgerDown
from generations.archive import Archive
from generations.supervisor import Supervisor
from ledger import Ledger, Queries
from ledger.access_records import ApiKeyRecord

FRESH: Final = 2.0
"""Seconds after the beginning of a read until the next. Until then, requests need no other."""

_RETRY: Final = 1.0
"""Seconds after which a failed read is tried again, if no request comes."""

_PATIENCE: Final = 5.0
"""Seconds for which a request waits for a read."""

Listener = Callable[[Sequence[ApiKeyRecord]], object]

log = structlog.get_logger("keys")


class KeyDirectory:
    """The keys that are neither deleted nor expired: `auth.Keys`. `load`, `find`, `with_id` and `is_fresh` may be
    called in any thread, everything else on the loop. `now` returns the Unix time."""

    def __init__(
        self,
        *,
        archive: Archive,
        ledger: Ledger,
        supervisor: Supervisor,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.archive = archive
        """It should have a thread of its own, so that no other query delays requests."""
        self._ledger = ledger
        self._supervisor = supervisor
        self._now = now
        self._clock = asyncio.get_running_loop().time
        self._by_id: dict[str, ApiKeyRecord] = {}
        self._by_digest: dict[str, ApiKeyRecord] = {}
        self._revision = 0
        """The last change that was read."""
        self._read_at = -inf
        """When the last read that succeeded began, by the loop's clock."""
        self._reading: asyncio.Task[None] | None = None
        self._was_down = False
        self._listeners: list[Listener] = []

    # ── auth.Keys

    def find(self, digest: str) -> ApiKeyRecord | None:
        key = self._by_digest.get(digest)
        if key is None or self._is_over(key):
            return None
        is_accepted = digest == key.digest or self._now() < (key.previous_until or 0.0)
        return key if is_accepted else None

    def with_id(self, key_id: str) -> ApiKeyRecord | None:
        key = self._by_id.get(key_id)
        return None if key is None or self._is_over(key) else key

    # ── Read

    @property
    def is_fresh(self) -> bool:
        return self._clock() < self._read_at + FRESH

    def all(self) -> Sequence[ApiKeyRecord]:
        """The keys that are not deleted, in any order."""
        return list(self._by_id.values())

    def on_change(self, listener: Listener) -> None:
        """Call `listener` with the present records of keys after each change, and with all at the start. Those that are
        deleted have `deleted_at`."""
        self._listeners.append(listener)

    def load(self, queries: Queries) -> None:
        """Read all keys before the work of earlier processes is restored. Blocks. Raises LedgerDown."""
        began = self._clock()
        self._replace(queries.changed_api_keys(0))
        self._read_at = began

    def begin(self) -> None:
        """Pass the keys of `load` on to the listeners."""
        self._pass_on(self.all())

    async def run(self) -> None:
        """Read changes until this is cancelled."""
        while True:
            is_failing = False
            try:
                await self._fresh_at(self._clock())
            except LedgerDown:
                is_failing = True
            except Exception:
                is_failing = True
                log.exception("keys_not_read")
            self._end_work()
            await asyncio.sleep(_RETRY if is_failing else max(0.0, self._read_at + FRESH - self._clock()))

    async def ensure_fresh(self) -> None:
        """Wait until the keys are fresh. Raises LedgerDown if they cannot be read."""
        async with _patiently():
            await self._fresh_at(self._clock())

    async def refresh(self) -> None:
        """Read the changes that were committed before this call, and end work accordingly. Raises LedgerDown."""
        if self._reading is not None:
            with suppress(LedgerDown):  # it may have begun before the change
                await asyncio.shield(self._reading)
        await self._read_once()
        self._end_work()

    async def meet(self, keys: Iterable[str]) -> None:
        """Read the changes unless each of these keys is known, so that the listeners know its limits. Raises
        LedgerDown."""
        if all(each in self._by_id for each in keys):
            return
        async with _patiently():
            await self.refresh()

    async def _fresh_at(self, moment: float) -> None:
        """Wait for a read that is fresh at this time."""
        while self._read_at + FRESH <= moment:
            await self._read_once()

    async def _read_once(self) -> None:
        """Wait for the read that goes on, or begin one."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._has_read)
        await asyncio.shield(self._reading)

    def _has_read(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        if not reading.cancelled():
            reading.exception()  # retrieved, since all that waited may be gone

    async def _read(self) -> None:
        began, is_down = self._clock(), self._ledger.trouble is not None
        # A server that has taken over in PostgreSQL may lack the last changes, and number others like them.
        whole = self._was_down and not is_down
        self._was_down |= is_down
        after = 0 if whole else self._revision
        records = await self.archive.read(lambda queries: queries.changed_api_keys(after))
        self._was_down = is_down
        if whole:
            ended = self._replace(records)
            self._pass_on([*records, *ended])
        elif records:
            self._apply(records)
            self._pass_on(records)
        self._read_at = began

    # ── Change

    def _replace(self, records: Sequence[ApiKeyRecord]) -> Sequence[ApiKeyRecord]:
        """Keep only these keys. Returns those that are gone, as deleted now."""
        by_id = {each.id: each for each in records}
        gone = [
            replace(each, deleted_at=self._now()) for each in self._by_id.values() if each.id not in by_id
        ]
        self._by_digest = {digest: each for each in records for digest in _digests(each)}
        self._by_id = by_id
        self._revision = max((each.revision for each in records), default=0)
        return gone

    def _apply(self, records: Iterable[ApiKeyRecord]) -> None:
        for each in records:
            before = self._by_id.get(each.id)
            if before is not None and before.revision >= each.revision:
                continue  # `load` has read a later change meanwhile
            present = _digests(each) if each.deleted_at is None else ()
            if each.deleted_at is None:
                self._by_id[each.id] = each
            else:
                self._by_id.pop(each.id, None)
            # The new ones first, as other threads may look for them at any time.
            self._by_digest |= dict.fromkeys(present, each)
            for digest in () if before is None else {*_digests(before)} - {*present}:
                del self._by_digest[digest]
            self._revision = max(self._revision, each.revision)

    def _pass_on(self, changed: Sequence[ApiKeyRecord]) -> None:
        for listener in self._listeners:
            listener(changed)

    def _end_work(self) -> None:
        """Cancel the waiting work of keys that are over."""
        for caller_id in self._supervisor.running.callers():
            if caller_id.startswith(KEY_PREFIX) and self.with_id(caller_id) is None:
                self._supervisor.cancel_queued(caller_id)

    def _is_over(self, key: ApiKeyRecord) -> bool:
        return key.expires_at is not None and key.expires_at <= self._now()


@asynccontextmanager
async def _patiently() -> AsyncIterator[None]:
    """Raises LedgerDown if the block, which waits for a read, takes too long."""
    try:
        async with asyncio.timeout(_PATIENCE):
            yield
    except TimeoutError:
        raise LedgerDown("The ledger cannot be read: it does not answer.") from None


def _digests(key: ApiKeyRecord) -> tuple[str, ...]:
    return (key.digest,) if key.previous_digest is None else (key.digest, key.previous_digest)
