"""Limits and named semaphores that all processes on one ledger have in common.

Each process reads them from the ledger: when another one has changed them, and each five seconds, since the process may
have been unreachable at that time. Permits of semaphores are counted only in the process that holds the gate, so every
other process sends its requests there.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, NoReturn

import structlog

from admission.semaphores import SemaphoreSnapshot
from cluster import AnyGate
from cluster.letters import Letters
from concurrency import Gate
from errors import LedgerDown
from generations.archive import Archive
from generations.limits import ConfiguredLimits
from generations.semaphores import KeptSemaphores, NamedSemaphores
from ledger import Queries
from ledger.post import GATE
from ledger.records import SemaphoreLeaseRecord
from parsing.limits import Limits

REFRESH: Final = 5.0
"""Seconds between two reads without news."""

_ANNOUNCED_WITHIN: Final = 2.0
"""Seconds in which another process must read a change. One that does not is stopped or dead."""

log = structlog.get_logger("cluster")


class SharedLimits:
    """`ConfiguredLimits` of a process on a ledger that others share."""

    def __init__(self, limits: ConfiguredLimits, archive: Archive, letters: Letters) -> None:
        self._limits = limits
        self._archive = archive
        self._letters = letters
        letters.on("limits", lambda _: self.refresh())

    async def change(self, limits: Limits) -> None:
        """Change the limits that `limits` names, in every process. Raises LedgerDown if they cannot be written."""
        await self._limits.change(limits)
        await announce(self._letters, "limits")

    async def refresh(self) -> None:
        """Apply the limits of the ledger. Raises LedgerDown."""
        await self._limits.refresh(self._archive.read)


class SharedSemaphores:
    """`NamedSemaphores` of the process that holds the gate, for every process. Every coroutine raises LedgerDown if
    that process cannot be reached.

    `gate` is the gate of this process, which has the ids and limits of all semaphores. `make` makes the semaphores of
    the gate that this process holds for all."""

    def __init__(
        self,
        gate: AnyGate,
        archive: Archive,
        letters: Letters,
        make: Callable[[Gate], NamedSemaphores],
    ) -> None:
        self._gate = gate
        self._archive = archive
        self._letters = letters
        self._make = make
        self.holds_gate: Callable[[], bool] = lambda: True
        """Whether this process certainly holds the gate."""
        self._held: NamedSemaphores | None = None
        self._refreshing = asyncio.Lock()
        letters.on("semaphores", self._answer)
        letters.on("semaphores changed", lambda _: self.refresh())

    @staticmethod
    def load(queries: Queries) -> KeptSemaphores:
        return NamedSemaphores.load(queries)

    def begin(self, kept: KeptSemaphores) -> None:
        """Know the semaphores of the ledger. Call it before any work is resumed."""
        limits = {each.id: each.limit for each in kept.semaphores}
        for known in self._gate.semaphores():
            if known.id not in limits:
                self._gate.remove_semaphore(known.id)
        for semaphore_id, limit in limits.items():
            self._gate.set_semaphore(semaphore_id, limit)

    # ── In the process that holds the gate

    async def take(self, gate: Gate) -> None:
        """Begin to count the permits, by this gate. Raises LedgerDown."""
        self.leave()
        held = self._make(gate)
        held.begin(await self._archive.read(held.load))
        self._held = held
        self._letters.hold(GATE)

    def leave(self) -> None:
        """Stop counting: another process does, or will. A second call does nothing."""
        self._letters.release(GATE)
        if self._held is not None:
            self._held.close()
            self._held = None

    # ── In every process

    async def refresh(self) -> None:
        """Read the semaphores from the ledger. Raises LedgerDown."""
        async with self._refreshing:  # so that the last read is the last one in force
            self.begin(await self._archive.read(self.load))

    async def all(self) -> list[SemaphoreSnapshot]:
        return [_snapshot(each) for each in await self._ask("all")]

    async def set_limit(self, semaphore_id: str, limit: int) -> SemaphoreSnapshot:
        changed = _snapshot(await self._ask("set_limit", semaphore_id, limit))
        await announce(self._letters, "semaphores changed")
        return changed

    async def remove(self, semaphore_id: str) -> None:
        await self._ask("remove", semaphore_id)
        await announce(self._letters, "semaphores changed")

    async def lease(self, semaphore_id: str, ttl: float, key: str | None) -> SemaphoreLeaseRecord:
        return SemaphoreLeaseRecord(**await self._ask("lease", semaphore_id, ttl, key))

    async def renew(self, semaphore_id: str, lease_id: str) -> SemaphoreLeaseRecord:
        return SemaphoreLeaseRecord(**await self._ask("renew", semaphore_id, lease_id))

    async def release(self, semaphore_id: str, lease_id: str) -> None:
        await self._ask("release", semaphore_id, lease_id)

    async def _ask(self, operation: str, *arguments: Any) -> Any:
        return await self._letters.ask(GATE, "semaphores", [operation, *arguments])

    async def _answer(self, body: Sequence[Any]) -> Any:
        if self._held is None or not self.holds_gate():
            raise LedgerDown("The gate has just moved to another process. Try again.")
        return await _OPERATIONS[body[0]](self._held, *body[1:])


async def keep_fresh(*shared: SharedLimits | SharedSemaphores) -> NoReturn:
    """Refresh these each five seconds, until it is cancelled."""
    while True:
        await asyncio.sleep(REFRESH)
        for each in shared:
            try:
                await each.refresh()
            except LedgerDown as down:
                log.debug("not_refreshed", reason=str(down))
            except Exception:  # this task must go on
                log.exception("refresh_failed")


async def announce(letters: Letters, kind: str) -> None:
    """Let every process read a change that is in the ledger."""
    try:
        await letters.ask_all(kind, None, timeout=_ANNOUNCED_WITHIN)
    except LedgerDown as down:  # the change is made, and each process finds it by itself
        log.info("change_not_announced", reason=str(down))


async def _all(held: NamedSemaphores) -> Any:
    return [asdict(each) for each in await held.all()]


async def _set_limit(held: NamedSemaphores, semaphore_id: str, limit: int) -> Any:
    return asdict(await held.set_limit(semaphore_id, limit))


async def _lease(held: NamedSemaphores, semaphore_id: str, ttl: float, key: str | None) -> Any:
    return asdict(await held.lease(semaphore_id, ttl, key))


async def _renew(held: NamedSemaphores, semaphore_id: str, lease_id: str) -> Any:
    return asdict(await held.renew(semaphore_id, lease_id))


_OPERATIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "all": _all,
    "set_limit": _set_limit,
    "remove": NamedSemaphores.remove,
    "lease": _lease,
    "renew": _renew,
    "release": NamedSemaphores.release,
}


def _snapshot(fields: Mapping[str, Any]) -> SemaphoreSnapshot:
    return SemaphoreSnapshot(**{**fields, "lease_ends": tuple(fields["lease_ends"])})
