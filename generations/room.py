"""The memory for the images of calls, which are fetched before a call waits for admission: its tokens depend on them.

So there may be as many images in memory as calls wait. Their bytes are bounded for all calls together and for those of
one turn. Further calls wait before they fetch anything. The same holds for uploaded images that a service judges
(`screening.py`).
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

SIZE: Final = 300_000_000
SHARE: Final = 100_000_000
"""Bytes for all calls, and for those of one turn."""


class Room:
    """Bytes in memory. Turns take room one after the other, and within a turn the earliest call is first."""

    def __init__(self, size: int = SIZE, share: int = SHARE) -> None:
        self._free = size
        self._share = share
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()

    @asynccontextmanager
    async def hold(self, turn: str, size: int) -> AsyncIterator["Held"]:
        """Wait for room for so many bytes, at most `share`, and keep it while the block runs."""
        await self._enter(turn, size)
        held = Held(self, turn, size)
        try:
            yield held
        finally:
            held.shrink(0)

    async def _enter(self, turn: str, size: int) -> None:
        granted = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(turn, deque()).append((size, granted))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._grant()  # it may have been the first of its turn
            else:
                self.give_back(turn, size)
            raise

    def give_back(self, turn: str, size: int) -> None:
        """So many bytes of a turn are free again."""
        self._free += size
        self._held[turn] -= size
        if not self._held[turn]:
            del self._held[turn]
        self._grant()

    def _grant(self) -> None:
        """Give room to those for whom there is some, one of each turn in each round."""
        turns = [*self._waiting]
        while turns:
            turns = [turn for turn in turns if self._grant_first(turn)]

    def _grant_first(self, turn: str) -> bool:
        """Give room to the first of a turn. Returns whether it has got it."""
        waiting = self._waiting[turn]
        while waiting and waiting[0][1].cancelled():
            waiting.popleft()
        if not waiting:
            del self._waiting[turn]
            return False
        size, granted = waiting[0]
        if size > self._free or (held := self._held[turn]) + size > self._share:
            return False
        waiting.popleft()
        self._free -= size
        self._held[turn] = held + size
        granted.set_result(None)
        self._waiting.move_to_end(turn)
        return True


class Held:
    """The room of one call."""

    def __init__(self, room: Room, turn: str, size: int) -> None:
        self._room = room
        self._turn = turn
        self._size = size

    def shrink(self, size: int) -> None:
        """The call needs only so many bytes."""
        if size < self._size:
            more, self._size = self._size - size, size
            self._room.give_back(self._turn, more)
