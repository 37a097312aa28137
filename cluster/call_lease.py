"""A lease of a call at the gate that all processes on a ledger share, in the process that requested it."""

import asyncio
from typing import Self

from cluster.lease import RowLease, Rows
from ledger.records import LeaseState


class RemoteMeteredLease(RowLease[Rows]):
    """As `metering.lease.MeteredLease`. What happens to the call is written to its row, also how many tokens it has and
    what it costs, for the holder of the gate."""

    def answered(self) -> None:
        if self.record.state == LeaseState.SENT and self._sent is not None:
            self._advance(LeaseState.ANSWERED)

    def measured(self, tokens: int) -> None:
        if self.record.state == LeaseState.ANSWERED and tokens != self.record.tokens:
            self._advance(LeaseState.ANSWERED, tokens=tokens)

    def proceed(self) -> None:
        if self.record.state == LeaseState.ANSWERED and not self.record.started:
            self._advance(LeaseState.ANSWERED, started=True)

    def settled(self, micro_usd: int) -> None:
        if self.record.state == LeaseState.ANSWERED and micro_usd != self.record.micro_usd:
            self._advance(LeaseState.ANSWERED, micro_usd=micro_usd)

    def lost(self) -> None:
        if self.record.state == LeaseState.SENT and self._sent is not None:
            self._advance(LeaseState.LOST, sent_ago=_now() - self._sent)
            self._gate.forget(self)

    @property
    def is_lost(self) -> bool:
        """Whether it is not known if the call arrived."""
        return self.record.state == LeaseState.LOST

    def release(self) -> None:
        if self.is_lost or self.record.state >= LeaseState.OVER:
            return
        if self.record.state == LeaseState.SENT and self._sent is not None:
            self.lost()
            return
        self._advance(LeaseState.OVER if self.record.state == LeaseState.ANSWERED else LeaseState.GONE)
        self._gate.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _now() -> float:
    return asyncio.get_running_loop().time()
