"""The service's own tokens: the present one, those that it replaced, and the account of each.

A token is replaced while work runs. The work keeps its token, since its predictions are in that token's account. Once
that token is refused, the work goes on with the present one, if that is of the same account. So predictions, their list
and the search for lost creations belong to an account, and not to a token.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Final

from auth import Caller
from contract.providers import CREATIONS

_KEPT: Final = 1_000
"""The most users with a remembered account."""

_REDACTED: Final = 32
"""The number of latest tokens that are removed from Replicate's answers."""

_ACCOUNT: Final = "account "
"""The beginning of the turn of a user with a known account (`token_checks.py`)."""


async def _no_source() -> None:
    """The token has no source."""


@lru_cache(64)  # searches compare all creations under way again and again
def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


class ServerTokens:
    """`token` is the service's own at the start, None without one. Use it on the loop; `others_of` in any thread.

    `refresh` reads the source of the token at once, since a refusal may mean that it was replaced."""

    def __init__(self, token: str | None) -> None:
        self.present = token
        self.account_changed_at: float | None = None
        """Unix time at which a token of another account came into use."""
        self.refresh: Callable[[], Awaitable[object]] = _no_source
        self._accounts: dict[str, str] = {}
        """The account of each of the service's tokens, as far as it is known."""
        self._used: tuple[str, ...] = () if token is None else (token,)
        self._refused: set[str] = set()
        self._of_users: OrderedDict[str, str] = OrderedDict()
        """The account of each user, by a hash of the token, which is not kept."""

    @property
    def account(self) -> str | None:
        """The account of the present token, None if it is not known."""
        return None if self.present is None else self._accounts.get(self.present)

    def account_of(self, token: str) -> str | None:
        """The account of one of the service's tokens, None if it is not known."""
        return self._accounts.get(token)

    def learn(self, token: str, account: str) -> None:
        """One of the service's tokens belongs to this account."""
        self._accounts[token] = account

    def replace(self, token: str, account: str) -> bool:
        """Use this token from now on, which belongs to `account`. Returns whether it is known to be another account
        than before."""
        before = self.account
        is_another = before is not None and before != account
        if is_another:
            self.account_changed_at = time.time()
        self.present, self._accounts[token] = token, account
        self._refused.discard(token)
        self._used = (*(each for each in self._used if each != token), token)[-_REDACTED:]
        return is_another

    def others_of(self, caller: Caller) -> tuple[str, ...]:
        """The tokens that may pay for this caller besides its own."""
        return self._used if caller.uses_server_token and len(self._used) > 1 else ()

    def token_of(self, caller: Caller) -> str:
        """The token that pays for this caller now."""
        token = caller.credentials[CREATIONS]
        if token in self._refused and caller.uses_server_token and self.present and self._is_replaced(token):
            return self.present
        return token

    async def after_refusal(self, caller: Caller, token: str) -> str | None:
        """The token to send instead of `token`, which was refused for this caller. None if there is none of the same
        account."""
        if not caller.uses_server_token:
            return None
        if not self._is_replaced(token):
            await self.refresh()
        if not self._is_replaced(token):
            return None
        self._refused.add(token)
        return self.present

    def payer_of(self, caller: Caller) -> str:
        """A text that identifies the account that pays for this caller: equal for all tokens that are known to be of
        one account, and a hash of the token if its account is not known."""
        token = caller.credentials[CREATIONS]
        account = self._accounts.get(token)
        if account is not None:
            return _ACCOUNT + account
        hashed = _hashed(token)
        if caller.turn.startswith(_ACCOUNT):
            self._of_users[hashed] = caller.turn
            self._of_users.move_to_end(hashed)
            if len(self._of_users) > _KEPT:
                self._of_users.popitem(last=False)
        return self._of_users.get(hashed, hashed)

    def _is_replaced(self, token: str) -> bool:
        """Whether the present token is another one of the same account."""
        account = self._accounts.get(token)
        return token != self.present and account is not None and account == self.account
