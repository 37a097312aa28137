"""The gate of calls in each process that shares a ledger. The holder of the role `gate` keeps the one real gate
(`call_keeper.py`), beside that of creations. Both are requested by rows of one table, and granted by one look
(`remote.py`)."""

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, tzinfo
from typing import Any, Final, Protocol

from admission.durations import Durations
from admission.metered.accounts import LONGEST_LOST
from admission.metered.demand import Demand, TooLarge
from admission.metered.estimates import MeteredEstimates
from admission.metered.limits import MeteredLimits
from admission.metered.policy import MeteredPolicy
from admission.metered.snapshot import AccountStats, MeteredSnapshot, MeteredStats
from admission.semaphores import Semaphores
from cluster.call_figures import Figures, copy_limits, mirrored, read_figures
from cluster.call_keeper import CallKeeper, demand_of
from cluster.call_lease import RemoteMeteredLease
from cluster.waits import Tell, Waits
from concurrency import Gate
from ledger import Ledger
from ledger.records import LeaseRecord
from metering.days import Days
from metering.gate import MeteredGate
from stepping import until_granted

EVENTS: Final = {"pause", "shut", "lower"}
"""The events that the holder must know, by the names of the methods of `MeteredGate`."""


class AnswerTable(Protocol):
    """The rows, for reports (`ledger.leases.LeaseTable`)."""

    async def account_answered(self, account: str, ago: float) -> None: ...


class RemoteMeteredGate(MeteredEstimates, Waits[RemoteMeteredLease]):
    """What `metering.gate.MeteredGate` is for a process alone. Only the holder admits; the policy here mirrors its
    figures. `tell` sends one of `EVENTS`. It is `beside` a `RemoteGate`, which runs it."""

    _keeper: CallKeeper

    def __init__(
        self,
        table: AnswerTable,
        ledger: Ledger,
        keeper: CallKeeper,
        *,
        tell: Tell,
        concurrent_limit: int,
        limits: MeteredLimits,
        zone: tzinfo = UTC,
    ) -> None:
        self._days = Days(zone, _now)
        self._zone = zone
        policy = MeteredPolicy(
            concurrent_limit=concurrent_limit,
            limits=limits,
            day_ends=self._days.end,
            semaphores=Semaphores(),
            durations=Durations(),
        )
        super().__init__(policy, _now)
        Waits.__init__(self, ledger, keeper, tell)
        self._table = table
        self._seen: Figures | None = None
        self._answered: dict[str, float] = {}
        """When the latest answered request of each account in doubt was sent."""
        self._doubts: dict[str, float] = {}
        """The accounts with lost calls, and until when."""

    # ── Leases

    async def acquire(self, demand: Demand) -> RemoteMeteredLease:
        """Wait for everything that the call needs. Raises TooLarge, and the exception of `close` or `dismiss`."""
        return await until_granted(self.request(demand))

    def request(self, demand: Demand) -> RemoteMeteredLease:
        if self._closed is not None:
            raise self._closed()
        self.check(demand)
        lease = RemoteMeteredLease(self, LeaseRecord(id=secrets.token_hex(12), **asdict(demand)))
        self._leases[lease.record.id] = lease
        return lease

    def check(self, demand: Demand) -> None:
        """Raises TooLarge if the call needs more than a whole window, so that it could never be admitted."""
        self._policy.check(demand)

    def is_large(self, demand: Demand) -> bool:
        limits = self._policy.limits
        return demand.is_large(limits.of(demand.model), limits.micro_usd)

    def _refuse_too_large(self) -> None:
        """End the waits for which lower limits have no room any more."""
        for lease in [each for each in self._leases.values() if not each.granted.done()]:
            try:
                self.check(demand_of(lease.record))
            except TooLarge as error:
                lease.release()
                lease.granted.set_exception(error)

    # ── Events

    def pause(self, caller: str, seconds: float) -> None:
        self._send("pause", caller=caller, seconds=seconds)

    def slow_down(self, caller: str) -> None:
        """As `MeteredGate` has it."""

    def refuse(self, caller: str, batch: str | None) -> bool:  # noqa: ARG002
        return True

    def shut(self, account: str, model: str | None, seconds: float, why: str) -> None:
        self._send("shut", account=account, model=model, seconds=seconds, why=why)

    def lower(self, account: str, model: str | None, limit: str, value: int) -> None:
        self._policy.lower(account, model, limit, value)
        self._send("lower", account=account, model=model, limit=limit, value=value)
        self._refuse_too_large()

    def upstream_answered(self, account: str, sent: float) -> None:
        """A request of an account that needs no admission, sent at this moment of the loop's clock, was answered."""
        if _now() < self._doubts.get(account, 0.0):
            self._answered[account] = max(sent, self._answered.get(account, sent))

    async def report(self) -> None:
        """Report answers to requests of accounts with lost calls. Raises LedgerDown."""
        answered, self._answered = self._answered, {}
        for account, sent in answered.items():
            await self._table.account_answered(account, _now() - sent)

    def forget(self, lease: RemoteMeteredLease) -> None:
        super().forget(lease)
        if lease.is_lost:
            self._doubts[lease.record.account or ""] = _now() + LONGEST_LOST

    # ── Limits, which every process has, and what counts, which only the holder knows

    def configure(self, *, concurrent_limit: int | None = None, limits: MeteredLimits | None = None) -> None:
        self._policy.configure(concurrent_limit=concurrent_limit, limits=limits)
        if self._keeper.gate is not None:
            self._keeper.gate.configure(concurrent_limit=concurrent_limit, limits=limits)
        self._refuse_too_large()

    def limit_caller(
        self, caller: str, *, max_concurrent: int | None = None, per_minute: int | None = None
    ) -> None:
        """Change the own limits of a caller here, and at the gate if this process holds it: each process does it."""
        self._policy.limit_caller(caller, max_concurrent=max_concurrent, per_minute=per_minute)
        if self._keeper.gate is not None:
            self._keeper.gate.limit_caller(caller, max_concurrent=max_concurrent, per_minute=per_minute)

    def new_gate(self, creations: Gate) -> MeteredGate:
        """A gate with the present limits, for the keeper, beside this gate of creations."""
        gate = MeteredGate(
            concurrent_limit=self._policy.concurrent_limit,
            limits=self._policy.limits,
            zone=self._zone,
            semaphores=creations.shared_semaphores,
            durations=self.durations,
        )
        gate.share_semaphores_with(creations)
        copy_limits(self._policy, gate)
        return gate

    # ── Figures

    def day_began(self) -> float:
        """The Unix time at which the present day of the upstream began. In any thread."""
        return self._days.began(time.time())

    def statistics(self) -> MeteredStats:
        if self._keeper.gate is not None:
            return self._keeper.gate.statistics()
        own = super().statistics()
        return own if self._seen is None else replace(
            self._seen.statistics, concurrent_limit=own.concurrent_limit
        )  # fmt: skip

    def account_statistics(self, account: str) -> AccountStats:
        if self._keeper.gate is not None:
            return self._keeper.gate.account_statistics(account)
        return super().account_statistics(account)

    def snapshot(self, account: str) -> MeteredSnapshot:
        if self._keeper.gate is not None:
            return self._keeper.gate.snapshot(account)
        found = super().snapshot(account)
        known = () if self._seen is None else self._seen.accounts
        semaphores = next((each.semaphores for each in known if each.account == account), ())
        return replace(found, semaphores=semaphores)

    def mirror(self, figures: Mapping[str, Any], age: float) -> None:
        """Make the policy from the figures that the holder published so many seconds ago."""
        published = figures.get("calls")
        if published is None:  # by a process that has no gate of calls
            return
        seen = self._seen = read_figures(published)
        now = _now()
        self._doubts = {account: until for account, until in self._doubts.items() if until > now}
        self._doubts |= dict.fromkeys(seen.in_doubt, now + LONGEST_LOST)
        self._policy = mirrored(seen, self._policy, day_ends=self._days.end, now=now - age)
        self._refuse_too_large()


def _now() -> float:
    return asyncio.get_running_loop().time()
