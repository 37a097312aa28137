"""Remembers the secret inputs of predictions in memory, so that they can be removed from what Replicate answers: a
model may repeat a token in its error, its output or its logs."""

import time
from collections.abc import Callable, Iterable
from typing import Final

from auth import Caller
from providers.redaction import SHORTEST, Redaction, redaction_of

KEPT_FOR: Final = 3600.0
"""Seconds after its last creation. A prediction runs for half of that at most, and Replicate deletes its data then."""

KEPT: Final = 1_000
"""The latest secrets of one account."""

_ORDINARY: Final = (
    "https://replicate.delivery/ https://api.replicate.com/v1/files/ succeeded processing starting output.png"
)
"""Words of every answer. A secret that is one of them is not removed, since that would drop all outputs. Short secrets
are removed from texts only."""


class SecretInputs:
    """The secrets of each account: one page shows the predictions of all its callers. Add them on the loop;
    `redaction` may be called in any thread. `other_tokens` are those that may pay for a caller besides its own."""

    def __init__(
        self,
        other_tokens: Callable[[Caller], tuple[str, ...]] = lambda caller: (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._other_tokens = other_tokens
        self._clock = clock
        self._until: dict[str, dict[str, float]] = {}
        """By account, each secret and when it is forgotten. The inner dicts are replaced, never changed."""

    def add(self, caller: Caller, secrets: Iterable[str], *, longest: float = 0.0) -> None:
        """A prediction with these secrets is about to be created. It may run for `longest` seconds, and as any for half
        an hour."""
        now = self._clock()
        new = dict.fromkeys((each for each in secrets if not _is_ordinary(each)), now + longest + KEPT_FOR)
        if not new:
            return
        for account, kept in tuple(self._until.items()):
            if max(kept.values()) <= now:
                del self._until[account]
        old = self._until.get(caller.account, {})
        left = {each: until for each, until in old.items() if until > now and each not in new}
        self._until[caller.account] = dict([*left.items(), *new.items()][-KEPT:])

    def redaction(self, caller: Caller, *more: str) -> Redaction:
        """The redaction of all answers to this caller. `more` are other secrets that Replicate knows."""
        more = (*more, *self._other_tokens(caller))
        kept = self._until.get(caller.account)
        if not kept:
            return redaction_of(caller, *more)
        now = self._clock()
        return Redaction(
            *caller.credentials.values(), *more, *(each for each, until in kept.items() if until > now)
        )


def _is_ordinary(secret: str) -> bool:
    return len(secret) >= SHORTEST and secret in _ORDINARY
