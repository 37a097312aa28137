"""Checks which account a caller's token belongs to. A new token is checked once, so that invented tokens take
no turns. Requests with a refused token are refused before any other work is done for them. Tokens of one
account share its turns. A token that cannot be checked now is let in, but shares one turn with all unproven
tokens (`admission.flows.UNPROVEN`): a provider that does not answer stops no caller, and a flood of
invented tokens takes no more than that turn.

Processes on one ledger share the outcomes of proven tokens, so a token is proven for all while the provider does not
answer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import structlog

from auth import Caller
from contract.providers import CREATIONS
from errors import TokenRejected
from providers import AccountSource
from providers.single_flight import SingleFlight

AT_ONCE: Final = 10
PER_MINUTE: Final = 300
SECONDS: Final = 5.0
"""Seconds for one check, including the wait for one of the `AT_ONCE` places."""

PROVEN_FOR: Final = 3600.0
REFUSED_FOR: Final = 60.0
"""Seconds for which the outcome of a check is kept."""

KEPT: Final = 10_000
"""The most outcomes that are kept of proven tokens, and also of refused ones."""

_SHARED_WITHIN: Final = 0.5
"""Seconds to wait for the outcome of another process. A check may take so much longer."""

CHECKS: Final = "checks"
"""The turn shared by all checks in the window of the requests that create nothing."""

T = TypeVar("T")

log = structlog.get_logger("auth")


@dataclass(frozen=True, slots=True)
class _Outcome:
    until: float
    turn: str = ""


class SharedTokens(Protocol):
    """The outcomes of proven tokens in all processes on one ledger. Each method raises LedgerDown."""

    async def find(self, caller_id: str) -> tuple[str, float] | None:
        """The turn of this caller, and for how many seconds it is proven."""

    async def keep(self, caller_id: str, turn: str, seconds: float) -> None:
        """The caller's token is proven for so many seconds."""

    async def drop(self, caller_id: str) -> None:
        """The caller's token is refused."""


class TokenChecks:
    """The outcomes of recent checks: at most `kept` proven ones and as many refused ones. `clock` returns
    seconds of a monotonic clock. Set `shared` before the first check to the outcomes of all
    processes on the ledger, if there may be others."""

    def __init__(
        self, provider: AccountSource, *, kept: int = KEPT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._provider = provider
        self._kept = kept
        self._clock = clock
        self._proven: dict[str, _Outcome] = {}
        self._refused: dict[str, _Outcome] = {}
        """Outcomes by the caller's id, the oldest first."""
        self._checking: SingleFlight[str | None] = SingleFlight()
        self._begun: deque[float] = deque()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._started: set[asyncio.Task[Any]] = set()
        self.shared: SharedTokens | None = None

    def known(self, caller: Caller) -> Caller | None:
        """The caller with its turn, None if it has to be checked. Call it in any thread. Raises
        TokenRejected."""
        if caller.uses_server_token:
            return caller
        now = self._clock()
        refused, proven = self._refused.get(caller.id), self._proven.get(caller.id)
        if refused is not None and now < refused.until:
            raise TokenRejected
        return replace(caller, turn=proven.turn) if proven is not None and now < proven.until else None

    def prove(self, caller: Caller) -> None:
        """The provider has accepted a call of this caller. No provider names the account of such a caller."""
        if not caller.uses_server_token:
            self._keep(self._proven, caller, _Outcome(self._clock() + PROVEN_FOR, caller.id))

    async def check(self, caller: Caller) -> Caller:
        """The caller with its turn. Concurrent calls with one token share a check. Only tokens of predictions can be
        checked: other callers are returned as they are. Raises TokenRejected."""
        if (known := self.known(caller)) is not None or CREATIONS not in caller.credentials:
            return known or caller
        if caller.id not in self._checking and not self._may_begin():
            return caller
        turn = await self._checking.run(caller.id, partial(self._checked, caller))
        return self.known(caller) or (caller if turn is None else replace(caller, turn=turn))

    async def aclose(self) -> None:
        """Stop checking."""
        await self._checking.aclose()
        await asyncio.gather(*self._started, return_exceptions=True)

    def _may_begin(self) -> bool:
        now = self._clock()
        while self._begun and self._begun[0] <= now - 60:
            self._begun.popleft()
        if len(self._begun) >= PER_MINUTE:
            return False
        self._begun.append(now)
        return True

    async def _checked(self, caller: Caller) -> str | None:
        """The turn of an accepted token. None if the token is refused or unknown."""
        if self.shared is not None and (known := await self._proven_elsewhere(self.shared, caller)):
            return known
        try:
            async with asyncio.timeout(SECONDS), self._places:
                account = await self._provider.account_of(replace(caller, turn=CHECKS))
        except TokenRejected:
            self._keep(self._refused, caller, _Outcome(self._clock() + REFUSED_FOR))
            if self.shared is not None:
                self._start(self.shared.drop(caller.id))
            return None
        except TimeoutError:
            return self._kept_turn(caller)
        except Exception:
            log.exception("token_check_failed", caller=caller.id)
            return None
        if account is None:
            return self._kept_turn(caller)
        turn = f"account {account}" if account else caller.id
        self._refused.pop(caller.id, None)
        self._keep(self._proven, caller, _Outcome(self._clock() + PROVEN_FOR, turn))
        if self.shared is not None:
            self._start(self.shared.keep(caller.id, turn, PROVEN_FOR))
        return turn

    async def _proven_elsewhere(self, shared: SharedTokens, caller: Caller) -> str | None:
        """The turn of a token that another process has proven, if its outcome is there soon."""
        search = self._start(shared.find(caller.id))
        await asyncio.wait([search], timeout=_SHARED_WITHIN)
        if not search.done() or search.exception() or (found := search.result()) is None:
            return None
        turn, seconds = found
        self._keep(self._proven, caller, _Outcome(self._clock() + min(seconds, PROVEN_FOR), turn))
        return turn

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._started.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._started.discard(task)
        if not task.cancelled():
            task.exception()  # without the ledger, each process checks by itself

    def _kept_turn(self, caller: Caller) -> str | None:
        """The turn of a token that was proven before, kept for another minute, since a missing answer is no
        refusal."""
        proven = self._proven.get(caller.id)
        if proven is None:
            return None
        self._keep(self._proven, caller, _Outcome(self._clock() + REFUSED_FOR, proven.turn))
        return proven.turn

    def _keep(self, kept: dict[str, _Outcome], caller: Caller, outcome: _Outcome) -> None:
        kept.pop(caller.id, None)  # so that it moves to the end
        kept[caller.id] = outcome
        if len(kept) > self._kept:
            del kept[next(iter(kept))]
