"""What a stop interrupted. The admin's goes on at once; a user's waits for its owner, since no token is written down.

Its owner's coming brings it back to life, as `recovery.py` reads it from its rows. It ends without having lived here if
it is cancelled, or if nobody comes in time. What it may still cost is held back from the budget until then.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from attempts import Ledger
from auth import Caller
from budget import Budget
from callbacks import Delivery
from generation import Generations
from lookup import Lookup
from loop_thread import Pool
from recovery import Left, Recovery, cancelled, given_up

Row = Mapping[str, Any]


class InterruptedWork:
    """Lives on the loop. `deliver` hears of results that a caller's webhook waits for, `forget` of ids whose files
    nobody needs any more."""

    def __init__(
        self,
        *,
        generations: Generations,
        ledger: Ledger,
        lookup: Lookup,
        recovery: Recovery,
        budget: Budget,
        deliver: Callable[[Delivery], None],
        forget: Callable[[Sequence[str]], None],
        threads: Pool,
    ) -> None:
        self._generations = generations
        self._ledger = ledger
        self._lookup = lookup
        self._recovery = recovery
        self._budget = budget
        self._deliver = deliver
        self._forget = forget
        self._threads = threads
        self._held: dict[str, float] = {}
        """What waits, `in` this: generations, each with the USD held for it, and batches of which something does."""
        self._perhaps_over: set[str] = set()
        """Batches of which something was ended here: nothing else would see that it was the last."""
        self._looking = asyncio.Lock()

    def __contains__(self, target: str) -> bool:
        return target in self._held

    def wait(self, rows: Iterable[Row]) -> None:
        """These wait for their owner, from now on or since an earlier process."""
        for row in rows:
            self._held[row["id"]] = self._budget.hold(row["reserved_usd"])
            if row["batch"]:
                self._held[row["batch"]] = 0.0
            if row["interrupted_at"] is None:
                self._ledger.put("generations", {**row, "interrupted_at": time.time()})

    async def bring_back(self, target: str, owner: Caller) -> bool:
        """Go on with what waits for them: a generation, or with one of a batch all of it. Whether it did wait."""
        left = await self._threads.run(partial(self._left, target, owner))
        if left is None or not left.ids <= self._held.keys():
            return False
        self.resume(left)
        return True

    def resume(self, left: Left) -> None:
        """Go on with what an earlier process left; what cannot go on has ended."""
        for row in left.lost:
            self._let_go(row["id"], cost=row["cost_usd"])
            self._put_ended(row)
        for each in left.ids:
            self._let_go(each)
        self._perhaps_over -= left.ids  # what lives ends by itself
        self._generations.resume(left.generations, left.batches)

    async def cancel(self, target: str) -> None:
        """End what waits of it. Raises LedgerDown."""
        await self._end(map(cancelled, await self._waiting(partial(self._lookup.members, target))))

    async def give_up(self, *, before: float) -> None:
        """End what has waited since before then. Raises LedgerDown."""
        await self._end(map(given_up, await self._waiting(partial(self._lookup.interrupted, before))))

    async def _waiting(self, ask: Callable[[], Sequence[Row]]) -> list[Row]:
        return [row for row in await self._threads.run(ask) if row["id"] in self._held]

    async def _end(self, rows: Iterable[Row]) -> None:
        batches = set()
        for row in rows:
            self._let_go(row["id"], cost=row["cost_usd"])
            self._put_ended(row)
            batches |= {row["batch"]} - {None}
        async with (
            self._looking
        ):  # each after its own rows are on the disk, and one at a time: two would end it twice
            self._perhaps_over |= batches
            await self._ledger.synced()
            for batch_id in tuple(self._perhaps_over):
                await self._end_if_over(batch_id)
                self._perhaps_over.discard(batch_id)

    async def _end_if_over(self, batch_id: str) -> None:
        row, members = await self._threads.run(partial(self._of_batch, batch_id))
        is_over = all(each["ended_at"] is not None for each in members)
        if row is not None and row["ended_at"] is None and is_over:
            self._let_go(batch_id)
            batch = self._recovery.batch(row, members, None, [])
            self._generations.resume((), [batch])
            if (task := self._generations.task(batch)) is not None:
                await asyncio.wait([task])

    def _let_go(self, target: str, *, cost: float = 0.0) -> None:
        self._budget.settle(reserved=self._held.pop(target, 0.0), cost=cost)

    def _put_ended(self, row: Row) -> None:
        """Put on record what ended without having lived here, and have its webhook told."""
        if row["webhook"]:
            delivery = Delivery(row["id"], row["webhook"], since=time.time())
            self._ledger.put("deliveries", delivery.as_row())
            self._deliver(delivery)
        self._ledger.put("generations", row)
        if row["batch"] is None:
            self._forget([row["id"]])

    # ── In another thread

    def _of_batch(self, batch_id: str) -> tuple[Row | None, Sequence[Row]]:
        return self._lookup.batch(batch_id), self._lookup.of_batch(batch_id)

    def _left(self, target: str, owner: Caller) -> Left | None:
        """What is to go on if it is theirs."""
        batch_id = target
        if not target.startswith("batch_"):
            row = self._lookup.generation(target)
            if row is None or row["caller"] != owner.id or row["ended_at"] is not None:
                return None
            if row["batch"] is None:
                return self._recovery.revived([row], (), owner)
            batch_id = row["batch"]
        batch, members = self._of_batch(batch_id)
        if batch is None or batch["caller"] != owner.id or batch["ended_at"] is not None:
            return None
        return self._recovery.revived((), [(batch, members)], owner)
