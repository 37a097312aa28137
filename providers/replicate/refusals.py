"""Decides whether a refusal is final, and which exception to raise for it. The refusal of a token may be
temporary. So when Replicate refuses a token, its account is requested. Only if that request is refused as
well, the token counts as refused. Calls that are refused at the same time share one request.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from auth import Caller
from errors import ServiceError
from providers import TryAgain
from providers.connections import Lost
from providers.redaction import Redaction, redaction_of
from providers.replicate.answers import Account
from providers.replicate.errors import (
    RATE_LIMIT_WAIT,
    is_about_token,
    is_final,
    passing_error,
    seconds_to_wait,
    service_error,
)
from providers.replicate.polling import PollFailed
from providers.replicate.transport import Refusal
from providers.single_flight import SharedAnswers

GOOD_FOR: Final = 5.0
"""Seconds for which an account is not requested again."""

ACCOUNTS_KEPT: Final = 1_000

MISSING_PATIENCE: Final = 10.0
"""Seconds. A prediction that no poll has found for this long is gone."""

_REFUSED_PATIENCE: Final = 60.0
"""Seconds. A prediction whose polls are refused for this long although its token is accepted is abandoned."""

T = TypeVar("T")


class Refusals:
    """Reads refusals. `ask(caller)` requests an account, and does not raise. `redaction` is that of a caller's
    answers."""

    def __init__(
        self,
        ask: Callable[[Caller], Coroutine[Any, Any, Account]],
        redaction: Callable[[Caller], Redaction] = redaction_of,
    ) -> None:
        self._accounts = SharedAnswers(ask, good_for=GOOD_FOR, most=ACCOUNTS_KEPT)
        self._redaction = redaction

    async def creation_error(self, refusal: Refusal, caller: Caller) -> Exception:
        """The exception for a creation that was refused, and so not made, though its target may run."""
        if await self.is_final(refusal, caller):
            return self.final_error(refusal, caller)
        return TryAgain(
            passing_error(refusal),
            wait=seconds_to_wait(refusal),
            throttled=refusal.status == 429,
            refused=is_about_token(refusal),
            cautious=not refusal.is_replicates and refusal.status != 503,
        )

    async def poll_error(self, refusal: Refusal, caller: Caller) -> Exception:
        """A PollFailed for a temporary refusal; otherwise the error that ends the watch."""
        if refusal.status == 429:
            return PollFailed(passing_error(refusal), wait=seconds_to_wait(refusal) or RATE_LIMIT_WAIT)
        if refusal.is_replicates and refusal.status == 404:
            return PollFailed(self.final_error(refusal, caller), patience=MISSING_PATIENCE)
        if refusal.is_replicates and refusal.status == 402:
            return PollFailed(passing_error(refusal), patience=_REFUSED_PATIENCE)
        if await self.is_final(refusal, caller):
            return self.final_error(refusal, caller)
        if is_about_token(refusal):
            return PollFailed(passing_error(refusal), patience=_REFUSED_PATIENCE)
        return PollFailed(passing_error(refusal), wait=seconds_to_wait(refusal) or 0.0)

    async def checked(self, caller: Caller, answer: Awaitable[T]) -> T:
        """The answer to a request that may be sent again. Raises Lost if the refusal of its token was
        temporary."""
        try:
            return await answer
        except Refusal as refusal:
            if refusal.status in {401, 403} and not await self.is_final(refusal, caller):
                raise Lost("the token was refused in passing") from None
            raise

    async def aclose(self) -> None:
        """Stop requesting accounts."""
        await self._accounts.aclose()

    def final_error(self, refusal: Refusal, caller: Caller) -> ServiceError:
        """The error that this caller gets for a final refusal."""
        return service_error(refusal, caller, self._redaction(caller))

    async def is_final(self, refusal: Refusal, caller: Caller) -> bool:
        """Whether the same request would be refused again."""
        if is_about_token(refusal):
            return (await self._accounts.get(caller)).status in {"refused", "forbidden"}
        return is_final(refusal)
