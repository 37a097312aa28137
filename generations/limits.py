"""The limits that `/configure` sets. They are kept in the ledger and win over the environment until `null` ends that.

Each limit has a record of its own, so a change of one limit leaves the others alone. Limits that were set with a
simulator do not apply to Replicate, nor the other way round.

If several processes share the ledger, the environment is that of the process that holds the gate.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import structlog

from admission.metered.limits import MeteredLimits
from cluster import AnyCallGate, AnyGate
from errors import LedgerDown
from ledger import Ledger, Queries
from ledger.records import MetaRecord
from parsing.limits import FLAT_NAMES, Limits, nested
from settings import Settings

_OF_CREATIONS: Final = frozenset({"concurrent_limit", "requests_per_minute"})

log = structlog.get_logger("limits")


class ConfiguredLimits:
    """The limits of `gate`, and of that of `calls`: those of the environment, except for those that `/configure` set.
    `load` may be called in any thread, everything else on the loop."""

    def __init__(
        self, settings: Settings, *, gate: AnyGate, ledger: Ledger, calls: "AnyCallGate | None" = None
    ) -> None:
        self.own: Mapping[str, Any] = {
            "concurrent_limit": settings.REPLICATE_CONCURRENT_LIMIT,
            "requests_per_minute": settings.REPLICATE_REQUESTS_PER_MINUTE,
            **settings.call_limits,
        }
        """The limits of this process's environment, by name."""
        self._environment = self.own
        self._differing: Mapping[str, Any] = {}
        self._prefix = "simulated " if settings.REPLICATE_SIMULATE else ""
        self._gate, self._calls = gate, calls
        self._ledger = ledger
        self._changing = asyncio.Lock()
        self.configured: Mapping[str, Any] = {}
        """The limits that `/configure` set, by name."""

    def load(self, queries: Queries) -> dict[str, Any]:
        """The limits that the ledger has. A value that is no valid limit is logged and left out. Raises LedgerDown."""
        kept: dict[str, Any] = {}
        for name in FLAT_NAMES:
            value = queries.meta(self._prefix + name)
            if value is None:
                continue
            try:
                limits = Limits.model_validate(nested({name: json.loads(value)}))
            except ValueError:
                log.warning("limit_ignored", limit=name, value=value[:100].decode(errors="replace"))
            else:
                kept |= limits.changes()
        return kept

    def begin(self, kept: Mapping[str, Any]) -> None:
        """Apply the limits of the ledger, and log those that differ from the environment's."""
        self.configured = kept
        self._apply(kept)
        differing = {name: value for name, value in kept.items() if value != self._environment[name]}
        if differing:
            environment = {name: self._environment[name] for name in differing}
            log.warning("limits_differ", configured=differing, environment=environment)

    def follow(self, holder: Mapping[str, Any]) -> None:
        """Use the limits of this environment, that of the process which holds the gate, and log those in force that
        differ from this process's own."""
        self._environment = {**self.own, **holder}
        self._apply(self._in_force)
        differing = {
            name: value
            for name, value in self._environment.items()
            if name not in self.configured and value != self.own.get(name, value)
        }
        if differing and differing != self._differing:
            own = {name: self.own[name] for name in differing}
            log.warning("limits_differ", holder=differing, environment=own)
        self._differing = differing

    async def change(self, limits: Limits) -> None:
        """Change the limits that `limits` names. None means that of the environment. Returns when the change is on disk
        and in force. Raises LedgerDown if it cannot be written; then nothing has changed. If the wait is cancelled, the
        change goes on, since half of it may be done."""
        await asyncio.shield(self._change(limits))

    async def refresh(
        self, read: Callable[[Callable[[Queries], dict[str, Any]]], Awaitable[dict[str, Any]]]
    ) -> None:
        """Apply the limits of the ledger, which another process may have changed. `read` reads it. Raises
        LedgerDown."""
        async with self._changing:
            self.configured = await read(self.load)
            self._apply(self._in_force)

    async def _change(self, limits: Limits) -> None:
        changes = limits.changes()
        async with self._changing:  # so that the last change on disk is the last one in force
            if self._ledger.trouble is not None:
                raise LedgerDown(self._ledger.trouble)
            self._write(changes)
            try:
                await self._ledger.flush()
            except LedgerDown:
                # A failed write is retried, so it is replaced by the present values.
                self._write({name: self.configured.get(name) for name in changes})
                raise
            changed = {**self.configured, **changes}
            self.configured = {name: value for name, value in changed.items() if value is not None}
            self._apply(changes)

    def _apply(self, names: Iterable[str]) -> None:
        """Bring the limits of these names into force."""
        in_force = self._in_force
        of_creations = {name: in_force[name] for name in names if name in _OF_CREATIONS}
        if of_creations:
            self._gate.configure(**of_creations)
        if self._calls is not None and any(name not in _OF_CREATIONS for name in names):
            self._calls.configure(
                concurrent_limit=in_force["calls.concurrency_limit"],
                limits=MeteredLimits.parse(in_force["calls.limits"]),
            )

    @property
    def _in_force(self) -> Mapping[str, Any]:
        return {**self._environment, **self.configured}

    def _write(self, limits: Mapping[str, Any]) -> None:
        for name, value in limits.items():
            if value is None:
                self._ledger.delete(MetaRecord, self._prefix + name)
            else:
                self._ledger.upsert(MetaRecord(self._prefix + name, json.dumps(value).encode()))
