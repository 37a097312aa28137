"""A lease of the metered gate: a slot, a place, tokens and money, held together."""

import asyncio
from collections.abc import Callable
from typing import Literal, Self

from admission.metered.demand import Demand
from admission.metered.policy import MeteredPolicy
from ledger import Ledger


class MeteredLease:
    """What one call needs: `with await gate.acquire(demand) as lease`.

    The sender calls `sent` once, `answered` when the head or the first byte of an answer comes, `measured` when the
    answer has the number of tokens of the prompt, and `settled` when it is known what the call costs: 0, if it was
    refused. `proceed` reports that the call was not refused for a limit. Without an answer, the sender calls `lost`.
    Leaving the block frees the slot, and everything if no call was sent. `granted` is done once the lease has all.
    """

    __slots__ = ("_admit_soon", "_clock", "_policy", "_state", "demand", "granted")

    def __init__(
        self,
        policy: MeteredPolicy,
        demand: Demand,
        admit_soon: Callable[[], None],
        state: Literal["held", "sent"] = "held",
    ) -> None:
        loop = asyncio.get_running_loop()
        self._policy = policy
        self._clock = loop.time
        self._admit_soon = admit_soon
        self._state: Literal["held", "sent", "answered", "released"] = state
        self.demand = demand
        self.granted: asyncio.Future[None] = loop.create_future()

    async def persist(self, ledger: Ledger, _reference: str, /) -> None:
        """Wait until the ledger has on disk that this lease is used for the attempt with this id. Raises LedgerDown."""
        await ledger.flush()

    def sent(self, ago: float = 0.0) -> None:
        if self._state != "held":
            raise RuntimeError(f"a lease is for one request; this one is {self._state}")
        self._state = "sent"
        self._policy.sent(self, self._clock() - ago)

    def not_sent(self) -> None:
        """Undo `sent`: the call was not sent, since there was no connection."""
        if self._state == "sent":
            self._state = "held"

    def answered(self, ago: float = 0.0) -> None:
        """The head or the first byte of an answer has come, so many seconds ago. A second call has no effect."""
        if self._state == "sent":
            self._state = "answered"
            self._policy.answered(self, self._clock() - ago)
            self._admit_soon()

    def measured(self, tokens: int) -> None:
        """The prompt has this number of tokens."""
        if self._state == "answered":
            self._policy.measured(self, tokens)
            self._admit_soon()

    def proceed(self) -> None:
        """The call was not refused for a limit. If it is the probe of a closed model or account, this opens it."""
        if self._state == "answered":
            self._policy.proceed(self)
            self._admit_soon()

    def settled(self, micro_usd: int) -> None:
        """The call has ended, and costs this much. Without this, it counts as what was reserved."""
        if self._state == "answered":
            self._policy.settled(self, micro_usd, self._clock())
            self._admit_soon()

    def lost(self, sent_ago: float | None = None, ago: float = 0.0) -> None:
        """The call was sent, and it is not known whether it arrived. This frees only the slot. It was
        sent so many seconds ago, or at `sent`, and lost `ago` seconds ago."""
        if self._state == "sent":
            self._state = "released"
            if sent_ago is not None:
                self._policy.sent(self, self._clock() - sent_ago)
            self._policy.lost(self, self._clock() - ago)
            self._admit_soon()

    def release(self) -> None:
        if self._state == "released":
            return
        if self._state == "held":
            self._policy.withdraw(self)
        else:
            self._policy.release(self, self._clock())
        self._state = "released"
        self._admit_soon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
