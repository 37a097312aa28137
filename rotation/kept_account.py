"""Notices between two starts that the service's Replicate token is of another account, by a hash in the ledger."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import structlog

from auth import Caller, credentials
from cluster.figures import ProcessFigures
from contract.providers import CREATIONS
from errors import LedgerDown, TokenRejected
from ledger import Ledger, Queries
from ledger.claims import ReplaceValue
from providers import AccountSource
from providers.payers import Payers, load

FIGURE: Final = "payer"
"""The name of the figure that has the hashes of a process's tokens and accounts, made with the key of the ledger."""

PAUSE: Final = 2.0
"""Seconds between two comparisons."""

_FIRST_WAIT: Final = 10.0
_LONGEST_WAIT: Final = 300.0
"""Seconds after a request for an account that was not named."""

_CHECK: Final = "server token"
"""The id and the turn of the caller that requests the account."""

_REASON: Final = (
    "The token is of another account than before this start. Creations in doubt of that account end as "
    "outcome_unknown, and so do its predictions that run."
)

ReadLedger = Callable[[Callable[[Queries], Any]], Awaitable[Any]]
"""Reads the ledger by a query, without blocking the loop."""

log = structlog.get_logger("secrets")


class KeptAccount:
    """Keeps a hash of the account of the present token in the ledger, and logs once that it is another one.

    It requests an account that is not known yet if `requests_account`; otherwise the watch of the token's source does.
    A kept account stays as long as another process on the ledger may pay with it."""

    def __init__(
        self,
        provider: AccountSource,
        payers: Payers,
        ledger: Ledger,
        read: ReadLedger,
        *,
        simulated: bool,
        requests_account: bool,
    ) -> None:
        self._provider = provider
        self._payers = payers
        self._ledger = ledger
        self._read = read
        self._simulated = simulated
        self._requests_account = requests_account
        self._name = "simulated server account" if simulated else "server account"
        self._kept: str | None = None
        self._noticed: float | None = None
        """The latest change that was logged."""
        self._ask_at, self._wait = 0.0, _FIRST_WAIT
        self._differ = False
        """Whether any tokens of processes differ."""
        self._others: Sequence[Any] | None = None if ledger.process else ()
        """The figures of the other processes about their tokens. None if they are not known yet."""

    @property
    def present(self) -> str | None:
        """The hash of the account of the present token. None if it is not known, or has no name."""
        return self._payers.present

    def read(self, processes: Sequence[ProcessFigures], *, differ: bool) -> None:
        """Use the figures of the processes on the ledger, and whether any tokens differ, as far as is known."""
        self._differ = differ
        others = [each for each in processes if each.id != self._ledger.process]
        self._others = [each.figures.get(FIGURE, {}) for each in others]

    async def run(self) -> None:
        """Compare until this is cancelled. Start it when the ledger is open."""
        self._payers.read(await self._rows())
        while True:
            try:
                await self._learn()
                await self._compare()
            except LedgerDown:
                pass
            except Exception:  # this task must go on
                log.exception("secret_watch_failed")
            await asyncio.sleep(PAUSE)

    async def _rows(self) -> Any:
        while True:
            try:
                return await self._read(partial(load, simulated=self._simulated))
            except LedgerDown:
                await asyncio.sleep(PAUSE)

    async def _learn(self) -> None:
        """Request the account of the present token once it matters: when the service has created something, or other
        processes have other tokens. Not if it is known, or was requested just before."""
        token, now = self._provider.tokens.present, asyncio.get_running_loop().time()
        if token is None or self._payers.knows(token) or now < self._ask_at:
            return
        if not self._requests_account or not (self._payers.have_paid or self._differ):
            return
        try:
            account = await request_account(self._provider, token)
        except TokenRejected:
            account = None
        if account is not None:
            self._payers.learn(token, account)
        self._ask_at, self._wait = now + self._wait, min(2 * self._wait, _LONGEST_WAIT)

    async def _compare(self) -> None:
        own = self._payers.present
        if own is None or own == self._kept:
            return
        kept = await self._read(lambda queries: queries.meta(self._name))
        if kept is not None and kept != own.encode() and self._may_pay_with(kept.decode(errors="replace")):
            return
        is_new = kept != own.encode()
        if is_new and not await self._ledger.claim(ReplaceValue(self._name, kept, own.encode())):
            return  # another process was faster
        self._kept = own
        tokens = self._provider.tokens
        if is_new and kept is not None and tokens.account_changed_at == self._noticed:
            log.warning("server_account_changed", reason=_REASON)
            tokens.account_changed_at = time.time()
        self._noticed = tokens.account_changed_at

    def _may_pay_with(self, account: str) -> bool:
        """Whether another process that is alive may pay with this account."""
        return self._others is None or any(each.get("account") in {None, account} for each in self._others)


async def request_account(provider: AccountSource, token: str) -> str | None:
    """The account of one of the service's tokens, as `AccountSource.account_of` returns it. Raises TokenRejected."""
    # A caller of its own kind, so that its requests are not sent again by the present token.
    caller = Caller("user", _CHECK, credentials(**{CREATIONS: token}), turn=_CHECK)
    return await provider.account_of(caller)
