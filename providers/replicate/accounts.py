"""Whether a refusal is Replicate's last word: a token may be refused in passing.

So when Replicate refuses a token, its account is asked for. Only when that is refused as well, all other calls with the
token would fail alike.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from auth import Caller
from providers.replicate.answers import Account
from providers.replicate.errors import is_about_token, is_final
from providers.replicate.shared import Shared
from providers.replicate.transport import Refusal

GOOD_FOR: Final = 5.0
"""Seconds for which an account is not asked for again."""

KEPT: Final = 1_000


class Accounts:
    """The accounts that were asked for lately: `ask(caller)` asks for one, and does not raise."""

    def __init__(self, ask: Callable[[Caller], Coroutine[Any, Any, Account]]) -> None:
        self._accounts = Shared(ask, good_for=GOOD_FOR, most=KEPT)

    async def is_final(self, refusal: Refusal, caller: Caller) -> bool:
        """Whether the same request would be refused again."""
        if is_about_token(refusal):
            return (await self._accounts.of(caller)).standing in {"refused", "forbidden"}
        return is_final(refusal)

    async def aclose(self) -> None:
        """Stop asking."""
        await self._accounts.aclose()
