"""The accounts of the service's tokens, and whether all processes on the ledger pay with one account.

While a token is replaced, the files of processes differ, and so do their tokens. Each process may continue the work of
another, so all tokens must be of one account.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog

from auth import Authenticator
from cluster.figures import ProcessFigures
from contract.providers import CALLS
from errors import TokenRejected
from providers import AccountSource
from rotation.kept_account import FIGURE, KeptAccount, request_account

DIFFERENT_FOR: Final = 120.0
"""Seconds for which tokens may differ before that is logged. Kubernetes brings a file to all pods in about a minute."""

log = structlog.get_logger("secrets")


class Accounts:
    """The accounts of the service's Replicate tokens, which `provider` names."""

    def __init__(self, provider: AccountSource) -> None:
        self._provider = provider

    async def of(self, token: str) -> str:
        """The account of a token. Raises ValueError if Replicate refuses it, or names no account."""
        try:
            account = await request_account(self._provider, token)
        except TokenRejected:
            raise ValueError("Replicate refuses it") from None
        if not account:
            raise ValueError("Replicate does not name its account")
        return account

    async def learn(self) -> None:
        """Request the account of the present token, unless it is known. A refused token does not show it any more."""
        tokens = self._provider.tokens
        if tokens.present is not None and tokens.account is None:
            try:
                tokens.learn(tokens.present, await self.of(tokens.present))
            except ValueError:
                return


class CommonAccount:
    """Compares the tokens of this process with those of the others on the ledger. `clock` is monotonic."""

    def __init__(
        self,
        provider: AccountSource,
        authenticator: Authenticator,
        account: KeptAccount,
        process: str | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = provider.tokens
        self._authenticator = authenticator
        self._account = account
        self._process = process
        self._clock = clock
        self._differ: dict[str, float] = {}
        """By id of each process that pays with another account, since when."""
        self._logged: set[str] = set()

    def published(self) -> Mapping[str, Any]:
        """The figures of this process for the others."""
        key, token = self._authenticator.server_token(CALLS), self._tokens.present
        return {
            FIGURE: {
                "token": self._hash("server token ", token),
                "account": self._account.present,
                "key": self._hash("server key ", key),
            }
        }

    def read(self, processes: Sequence[ProcessFigures]) -> None:
        """Compare, and log `tokens_differ` once for each process that differs for long."""
        own, now = self.published()[FIGURE], self._clock()
        found = {
            each.id: each.figures[FIGURE]
            for each in processes
            if each.id != self._process and FIGURE in each.figures
        }
        different = {each for each, theirs in found.items() if not _is_same(own, theirs)}
        self._account.read(processes, differ=bool(different))
        self._differ = {each: self._differ.get(each, now) for each in different}
        late = {each for each, since in self._differ.items() if now >= since + DIFFERENT_FOR}
        if late - self._logged:
            log.warning("tokens_differ", processes=sorted(late))
        self._logged = late

    async def run(self) -> None:
        """Learn the account of this process, and compare it with the one that the ledger keeps, until this is
        cancelled. Start it when the ledger is open."""
        await self._account.run()

    def _hash(self, kind: str, secret: str | None) -> str | None:
        return None if secret is None else self._authenticator.keyed_hash(kind + secret)


def _is_same(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two processes pay with the same accounts, as far as that is known."""
    is_same_account = own["account"] is not None and own["account"] == theirs.get("account")
    return own["key"] == theirs.get("key") and (own["token"] == theirs.get("token") or is_same_account)
