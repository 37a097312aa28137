"""Admission of calls: which wait at their gate, and which are refused since a limit stays closed for long.

A limit of a minute closes a model or an account for a moment, and its calls wait. A day that is over, an account
without money and a tier without the model do not change soon. Until then, all calls that would be refused as well get
the same error at once, also those that wait already.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from typing import Final, Protocol, Self

from admission.metered.demand import Demand, TooLarge
from errors import Problem, ServiceError
from errors.calls import PromptTooLarge
from ledger import Ledger
from providers import TryAgain
from providers.calls import CallLease, LimitHit

_UNKNOWN_WAIT: Final = 60.0
"""Seconds for which a model or account is closed if the provider states no time."""

_MOST: Final = 1_000
"""Closed models and accounts after which those are forgotten that are open again. Callers may invent accounts."""

_Scope = tuple[str, str | None]
"""An account, and a model of it or None for all."""


class Lease(CallLease, Protocol):
    """The admission of one call: `metering.lease.MeteredLease`, or that of several processes."""

    async def persist(self, ledger: Ledger, reference: str, /) -> None:
        """Wait until the ledger has on disk that it is used for the attempt with this id. Raises LedgerDown."""

    def proceed(self) -> None:
        """The call was not refused for a limit."""

    def settled(self, micro_usd: int) -> None:
        """The call has ended, and costs this much."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class CallGate(Protocol):
    """What admits calls: `metering.gate.MeteredGate`, or that of several processes."""

    def check(self, demand: Demand) -> None:
        """Raises TooLarge if a call of this size can never be admitted."""

    def is_large(self, demand: Demand) -> bool:
        """Whether the call takes so much of a window that an estimate of its size is too coarse."""

    async def acquire(self, demand: Demand) -> Lease:
        """Wait for everything that the call needs. Raises TooLarge."""

    def shut(self, account: str, model: str | None, seconds: float, why: str) -> None:
        """The provider refused a call for a limit of a model, or of the account, for so many seconds."""

    def lower(self, account: str, model: str | None, limit: str, value: int) -> None:
        """A limit is lower than was configured."""


class CallAdmission:
    """The gate of calls, and the limits that stay closed for long."""

    def __init__(self, gate: CallGate) -> None:
        self.gate = gate
        self._closed: dict[_Scope, tuple[float, ServiceError]] = {}
        self._waits: defaultdict[_Scope, set[asyncio.Timeout]] = defaultdict(set)

    def check(self, demand: Demand) -> None:
        """Raises PromptTooLarge if a call of this size can never be admitted."""
        with _size_checked():
            self.gate.check(demand)

    async def acquire(self, demand: Demand) -> Lease:
        """Wait for everything that the call needs. Raises PromptTooLarge, and the error of a limit that stays closed
        for long."""
        scopes = (demand.account, None), (demand.account, demand.model)
        self._refuse(scopes)
        try:
            async with asyncio.timeout(None) as wait:
                for each in scopes:
                    self._waits[each].add(wait)
                try:
                    with _size_checked():
                        return await self.gate.acquire(demand)
                finally:
                    self._forget(scopes, wait)
        except TimeoutError:
            self._refuse(scopes)
            raise

    def limited(self, account: str, model: str, hit: LimitHit) -> Exception:
        """Close the model or the account for a limit that it has reached. Returns the error to raise."""
        scope = model if hit.scope == "model" else None
        if hit.limit is not None and hit.lowered_to:
            with suppress(ValueError):  # a limit that this gate does not have
                self.gate.lower(account, scope, hit.limit, hit.lowered_to)
        hit.error.falls_back = True  # another model has limits of its own
        known = hit.wait if hit.until is None else max(0.0, hit.until - time.time())
        if hit.kind == "capacity":  # no window of an account is full
            return TryAgain(hit.error, wait=known)
        seconds = _UNKNOWN_WAIT if known is None else known
        self.gate.shut(account, scope, seconds, hit.error.detail)
        if hit.kind == "minute":
            return TryAgain(hit.error, wait=0.0, gate_closed=True)
        now = asyncio.get_running_loop().time()
        if len(self._closed) > _MOST:
            self._closed = {each: found for each, found in self._closed.items() if now < found[0]}
        self._closed[account, scope] = now + seconds, copy(hit.error)
        for each in self._waits.get((account, scope), ()):
            each.reschedule(now)
        return hit.error

    def _refuse(self, scopes: tuple[_Scope, ...]) -> None:
        for each in scopes:
            until, error = self._closed.get(each, (0.0, None))
            if error is not None:
                if asyncio.get_running_loop().time() < until:
                    raise copy(error)
                del self._closed[each]

    def _forget(self, scopes: tuple[_Scope, ...], wait: asyncio.Timeout) -> None:
        for each in scopes:
            self._waits[each].discard(wait)
            if not self._waits[each]:
                del self._waits[each]


@contextmanager
def _size_checked() -> Iterator[None]:
    """Raises PromptTooLarge for a call that is too large for a whole window."""
    try:
        yield
    except TooLarge as error:
        raise PromptTooLarge([Problem("prompt", str(error))]) from None
