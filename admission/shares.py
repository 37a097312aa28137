"""The shares of processes in one window: how many places each may use before it settles again.

All processes together hold at most `limit` places, so together they never exceed the window. A process starts with one
block and requests three times as many places as it holds when it uses a quarter of them. It gives back those that it
does not need, and those above its fair part while another process below its own wants more. A process may give back
only places that are free: those it does not use, and that no request used in the last minute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from admission.sliding_window import WINDOW

_BLOCKS: Final = 60
"""A block is this part of the limit. An idle process holds one, and so does one that died, for a minute."""

_SPARE_BLOCKS: Final = 3
"""Blocks that are left to processes without a place. These leave the last one, for a process that is counted as dead
and still sends, since only the database does not reach it."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a process holds, in places, and how many more it wants. A dead process holds its places for a while."""

    places: int
    wants: int = 0
    is_alive: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """The places that a process holds now, and how many it should hold at most: it gives back the others as soon as it
    can."""

    places: int
    most: int


def block_of(limit: int) -> int:
    return max(1, limit // _BLOCKS)


def settle(others: Sequence[Holding], held: int, *, keep: int, wants: int, limit: int) -> Answer:
    """Settle with a process that held this many places: it keeps at most `keep` of them and wants so many more. All
    processes together, with these `others`, may hold `limit`."""
    held = min(held, keep)
    alive = [each for each in others if each.is_alive]
    fair = limit // (1 + len(alive))
    is_one_short = any(each.wants and each.places < fair for each in alive)
    free = limit - held - sum(each.places for each in others)
    free -= (_SPARE_BLOCKS if held else 1) * (limit // _BLOCKS)
    if is_one_short:
        free = min(free, fair - held)
    places = held + max(0, min(wants, free))
    return Answer(places, max(fair, 1) if is_one_short else limit)


class Share:
    """The share of this process in a window of `limit` places. `allowed` is the limit that it keeps for itself; it may
    be 0. `now` is in seconds of any monotonic clock.

    Call `demand`, obey `allowed`, then settle by its result, and call `settled` with the answer.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._block = block_of(limit)
        self._most = limit
        self._needed_at = 0.0
        self.allowed = 0

    def demand(self, now: float, *, used: int, waiting: int) -> Holding:
        """What this process holds from now on, and wants. `used` places of its own window are not free, and so many
        requests are `waiting`."""
        if waiting or 4 * used >= self.allowed:  # polls are spread out from a half on
            self._needed_at = now
            wants = min(max(self._block, 3 * self.allowed), self._most - self.allowed)
        else:
            wants = 0
            if now >= self._needed_at + WINDOW:
                self.allowed = min(self.allowed, max(self._block, 6 * used))
        self.allowed = min(self.allowed, self._most)
        return Holding(max(self.allowed, used), max(0, wants))

    def settled(self, answer: Answer) -> None:
        self._most = answer.most
        self.allowed = min(answer.places, answer.most)

    def drop(self) -> None:
        """Use no place before the next answer: others may have them."""
        self.allowed = 0

    def close(self, used: int) -> Holding:
        """Give back all places but the `used` ones."""
        self.allowed = 0
        return Holding(used)
