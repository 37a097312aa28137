"""The accounts that may have paid for the creations of the service's own work, in the ledger.

A creation in doubt is searched for in the list of the present token's account. If it was sent by a token of another
account, that list does not show it, and is no proof. So before a creation is sent, the ledger has a hash of its
token, and until when that token may be used; and a hash of the token's account as soon as it is known.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from auth import Caller
from contract.providers import CREATIONS
from errors import OutcomeUnknown
from ledger import Ledger, Queries
from ledger.records import MetaRecord
from providers.server_tokens import ServerTokens

_USED_FOR: Final = 120.0
"""Seconds after a creation in which its token may be used, by the row in the ledger."""

_LEAST: Final = 60.0
"""With fewer seconds left, the row is written again. It is also the most by which clocks of hosts may differ."""

PATIENCE: Final = 600.0
"""The most seconds to wait for the account of the present token, as for the search itself."""

_SOON: Final = 10.0
"""Seconds for a request for the account. Until then, there is no search in a list that may be of another account."""

NOT_FOUND: Final = (
    "The service stopped while the prediction was being created, and its Replicate token may be of another account "
    "now, which does not show that prediction. The service does not retry, since the prediction may have been billed."
)
NOT_SEEN: Final = (
    "The service's Replicate token may be of another account than the one that created the prediction, and does not "
    "find it. The prediction may have been billed."
)


class Payers:
    """`hashed` makes the hash of a secret with the key of the ledger, without spaces. `clock` returns the Unix time.
    Use it on the loop."""

    def __init__(
        self,
        tokens: ServerTokens,
        ledger: Ledger,
        hashed: Callable[[str], str],
        *,
        simulated: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = tokens
        self._ledger = ledger
        self._hashed = hashed
        self._prefix = _prefix(simulated)
        self._clock = clock
        self._written: dict[str, float] = {}
        """Until when each token may be used, as this process has written it. All keys are hashes of tokens."""
        self._used: dict[str, float] = {}
        """The same by the rows of all processes."""
        self._accounts: dict[str, str] = {}
        """The hash of the account of each token."""
        self._learned = asyncio.Event()
        """Set when the account of a token has become known; then there is another one."""

    def read(self, rows: Mapping[str, bytes]) -> None:
        """Use the rows of `load`, which must be newer than the work with creations in doubt."""
        for name, value in rows.items():
            token, _, kind = name.removeprefix(self._prefix).partition(" ")
            text = value.decode(errors="replace")
            if kind == "account":
                self._accounts[token] = text
            else:
                self._used[token] = _moment(text)

    async def noted(self, caller: Caller, persist: Callable[[], Awaitable[None]]) -> None:
        """Await `persist()`, which writes all changes, with the token that is about to pay for this caller."""
        if caller.uses_server_token:
            self._note(caller.credentials[CREATIONS])
        await persist()

    def learn(self, token: str, account: str) -> None:
        """One of the service's tokens belongs to this account; the account is empty if Replicate does not name it."""
        key, found = self._token(token), self.hash_of(account)
        if self._accounts.get(key) != found:
            self._accounts[key] = found
            self._learned.set()
            self._learned = asyncio.Event()
            self._ledger.upsert(MetaRecord(f"{self._prefix}{key} account", found.encode()))

    def knows(self, token: str) -> bool:
        """Whether the account of this token is known, or Replicate does not name it."""
        return self._account_of(token) is not None

    @property
    def have_paid(self) -> bool:
        """Whether one of the service's tokens may have paid for a creation."""
        return bool(self._used or self._written)

    @property
    def present(self) -> str | None:
        """The hash of the account of the present token. None if it is not known, or has no name."""
        token = self._tokens.present
        account = None if token is None else self._account_of(token)
        return None if account == self.hash_of("") else account

    def hash_of(self, account: str) -> str:
        return self._hashed(f"server account {account}")

    async def raise_if_other(self, caller: Caller, since: float, reason: str) -> None:
        """Raise OutcomeUnknown with this reason if work of this caller may have been paid at `since` (Unix time) by
        another account than the caller's present one. If that is not known, wait a little, and do not raise."""
        if await self._is_other(caller, since, within=_SOON):
            raise OutcomeUnknown(reason)

    async def confirm(self, caller: Caller, since: float, reason: str) -> None:
        """Raise OutcomeUnknown with this reason, unless the present account has paid. Waits longer to know that."""
        if await self._is_other(caller, since, within=PATIENCE) is not False:
            raise OutcomeUnknown(reason)

    async def _is_other(self, caller: Caller, since: float, *, within: float) -> bool | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self._may_be_other(caller, since) is None:
                    await self._learned.wait()
        return self._may_be_other(caller, since)

    def _may_be_other(self, caller: Caller, since: float) -> bool | None:
        """Whether another account may have paid; None if the account of the caller's token is not known yet."""
        if not caller.uses_server_token:
            return False
        token = caller.credentials[CREATIONS]
        used = self._used.keys() | self._written.keys()
        others = {each for each in used if self._until(each) >= since} - {self._token(token)}
        if not others:
            return False
        if (own := self._account_of(token)) is None:
            return None
        accounts, unnamed = {self._accounts.get(each) for each in others}, self.hash_of("")
        # Where Replicate names no account, tokens cannot be distinguished.
        return bool(accounts - {own, None}) if own == unnamed else accounts != {own}

    def _note(self, token: str) -> None:
        self._account_of(token)  # keeps its account too, if that is known
        key, now = self._token(token), self._clock()
        if self._written.get(key, -math.inf) < now + _LEAST:
            self._written[key] = now + _USED_FOR
            self._ledger.upsert(MetaRecord(f"{self._prefix}{key} used", str(now + _USED_FOR).encode()))

    def _until(self, key: str) -> float:
        return max(self._used.get(key, -math.inf), self._written.get(key, -math.inf))

    def _account_of(self, token: str) -> str | None:
        """The hash of the account of this token. The ledger keeps it as soon as it is known."""
        name = self._tokens.account_of(token)
        if name is not None:
            self.learn(token, name)
        return self._accounts.get(self._token(token))

    def _token(self, token: str) -> str:
        return self._hashed(f"server token {token}")


def load(queries: Queries, *, simulated: bool) -> Mapping[str, bytes]:
    """The rows about the tokens of all processes. Blocks. Raises LedgerDown."""
    return queries.metas(_prefix(simulated))


def _prefix(simulated: bool) -> str:
    return "simulated server token " if simulated else "server token "


def _moment(text: str) -> float:
    """The Unix time, or infinity if an operator has written something else."""
    try:
        return float(text)
    except ValueError:
        return math.inf
