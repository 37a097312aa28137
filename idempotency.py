"""Idempotency keys: the same key and body from the same caller is the same work, whatever happened in between.

Who claims a key first has it, until the work that it stands for has ended; whoever claims it meanwhile, even at the
same instant, waits for that one to be accepted and is told which it is. From then on the ledger knows it, for a day.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from attempts import Ledger
from catalog.references import Upload
from errors import IdempotencyConflict

KEPT_FOR: Final = 86_400.0
"""Seconds, and in any case until the work has ended."""

Row = Mapping[str, Any]
Place = tuple[str, str]


@dataclass(slots=True)
class _Claim:
    fingerprint: str
    target: str | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class Keys:
    """The keys of all callers. Lives on the loop.

    `ask(caller, key)` gives the ledger's row of a key, `is_unfinished(target)` whether it stands for work that has not
    ended yet.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        ask: Callable[[str, str], Awaitable[Row | None]],
        is_unfinished: Callable[[str], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._ask = ask
        self._is_unfinished = is_unfinished
        self._clock = clock
        self._claims: dict[Place, _Claim] = {}
        self._place_of: dict[str, Place] = {}

    async def claim(self, caller: str, key: str, fingerprint: str) -> str | None:
        """What the key stands for; None if for nothing yet: then `settle` or `abandon` it. Raises
        IdempotencyConflict, and LedgerDown if nobody can know."""
        place = caller, key
        while (other := self._claims.get(place)) is not None:
            await other.settled.wait()
            if other.target is not None:
                return _same(other.fingerprint, fingerprint, other.target)
        claim = self._claims[place] = _Claim(fingerprint)
        try:
            row = await self._ask(caller, key)
        except BaseException:
            self.abandon(caller, key)
            raise
        if row is None or self._is_over(row):
            return None
        self._let_go(place, claim)
        return _same(row["fingerprint"], fingerprint, row["target"])

    def settle(self, caller: str, key: str, target: str) -> None:
        """It stands for this from now on."""
        place = caller, key
        claim = self._claims[place]
        claim.target = target
        self._place_of[target] = place
        claim.settled.set()
        self._ledger.put(
            "keys",
            {
                "caller": caller,
                "key": key,
                "fingerprint": claim.fingerprint,
                "target": target,
                "since": self._clock(),
            },
        )

    def abandon(self, caller: str, key: str) -> None:
        """It stands for nothing after all; whoever waits claims it anew."""
        place = caller, key
        claim = self._claims.get(place)
        if claim is None or claim.target is not None:  # None: what it stood for has ended meanwhile
            self._ledger.remove("keys", caller, key)
        if claim is not None:
            self._place_of.pop(claim.target or "", None)
            claim.target = None
            self._let_go(place, claim)

    def is_held(self, caller: str, key: str) -> bool:
        """Whether it stands for work that is alive, or is being claimed."""
        return (caller, key) in self._claims

    def release(self, target: str) -> None:
        """The work has ended: from here on the ledger is asked."""
        place = self._place_of.pop(target, None)
        if place is not None:
            self._claims.pop(place, None)

    def _let_go(self, place: Place, claim: _Claim) -> None:
        if self._claims.get(place) is claim:
            del self._claims[place]
        claim.settled.set()

    def _is_over(self, row: Row) -> bool:
        return row["since"] + KEPT_FOR <= self._clock() and not self._is_unfinished(row["target"])


def body_fingerprint(route: str, body: Any) -> str:
    """What two bodies have in common that ask the same of the same route. Reads files that came with it."""
    text = json.dumps([route, body], sort_keys=True, default=_content)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _content(upload: Upload) -> str:
    upload.file.seek(0)
    digest = hashlib.sha256()
    while chunk := upload.file.read(1024 * 1024):
        digest.update(chunk)
    upload.file.seek(0)
    return digest.hexdigest()


def _same(known: str, given: str, target: str) -> str:
    if known != given:
        raise IdempotencyConflict(
            "This Idempotency-Key came with another body before; use a key for one request only."
        )
    return target
