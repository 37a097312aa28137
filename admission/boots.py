"""Boots: predictions of one version that wait for it to boot hold at most half of the slots, and at least one.

An official model is always warm. Any other version may have to boot first, which takes minutes for an unpopular one,
and nothing runs meanwhile. Without a limit, a batch of one cold version would hold every slot for nothing.

A ticket that *may boot* names its version. From its admission until its prediction has started, or has ended, it takes
some room of that version's `Boot`. A ticket that finds no room is passed over: the later tickets of its flow go first,
and it keeps its order among those of the same version. The limit of a semaphore is another one: it is for whole flows,
and its permit is held as long as the slot.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from statistics import median
from typing import Any, Final, TypeAlias

Ticket: TypeAlias = Any
"""Identifies one item that waits or runs: any hashable value."""

_WAITS_KEPT: Final = 9
"""How many waits for a start are remembered of each version."""

_VERSIONS_KEPT: Final = 64
"""Of how many versions. The one that started the longest ago is forgotten."""


def most_booting(slots: int) -> int:
    """How many slots the booting predictions of one version may hold."""
    return max(1, slots // 2)


@dataclass(slots=True, eq=False)
class Boot:
    """A version that may have to boot. `booting` counts its admitted tickets that have not started."""

    version: str
    limit: int
    booting: int = 0
    waiting: int = 0

    @property
    def room(self) -> int:
        """Negative after the limit was lowered."""
        return self.limit - self.booting


@dataclass(frozen=True, slots=True)
class BootSnapshot:
    """Tickets of one flow that may boot: how many wait, and how many hold a slot and have not started."""

    version: str
    waiting: int
    booting: int


class Boots:
    """The boots of all versions that tickets name."""

    def __init__(self) -> None:
        self._by_version: dict[str, Boot] = {}
        self._waits: dict[str, deque[float]] = {}
        self._limit = 1

    @property
    def booting(self) -> int:
        """How many admitted tickets have not started, of all versions."""
        return sum(each.booting for each in self._by_version.values())

    def set_slots(self, slots: int) -> None:
        """Follow the number of slots. A lower limit ends no boot."""
        self._limit = most_booting(slots)
        for each in self._by_version.values():
            each.limit = self._limit

    def find(self, version: str | None) -> Boot | None:
        """The boot of a version, if tickets name it."""
        return None if version is None else self._by_version.get(version)

    def of(self, version: str | None) -> Boot | None:
        """The boot of a version; None for a model that is always warm."""
        if version is None:
            return None
        found = self._by_version.get(version)
        if found is None:
            # A new version is the moment to forget those that no ticket names any more.
            self._by_version = {
                name: each for name, each in self._by_version.items() if each.waiting or each.booting
            }
            found = self._by_version[version] = Boot(version, self._limit)
        return found

    def note_wait(self, version: str, seconds: float) -> None:
        """A prediction of this version has waited so long, from its admission to its start."""
        waits = self._waits.pop(version, None) or deque(maxlen=_WAITS_KEPT)
        waits.append(seconds)
        self._waits[version] = waits
        if len(self._waits) > _VERSIONS_KEPT:
            del self._waits[next(iter(self._waits))]

    def usual_wait(self, version: str) -> float:
        """The seconds for which predictions of a version usually wait for their start, 0 if none is remembered. It is
        the median, which one boot before many warm predictions does not change."""
        return median(self._waits[version]) if version in self._waits else 0.0

    def waits(self) -> dict[str, float]:
        """The usual wait of each version that is remembered."""
        return {version: self.usual_wait(version) for version in self._waits}


class Line:
    """The waiting tickets of a flow: first in, first out, but for those whose version has no room."""

    def __init__(self) -> None:
        self._lanes: dict[Boot | None, OrderedDict[Ticket, int]] = {}
        """The tickets of each version, and of all models that are always warm. Lower numbers come first."""
        self._numbers = count()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Ticket]:
        return (ticket for lane in self._lanes.values() for ticket in lane)

    def add(self, tickets: Iterable[Ticket], boot: Boot | None) -> int:
        """Add tickets at the end. Returns how many."""
        lane = self._lanes.setdefault(boot, OrderedDict())
        before = len(lane)
        for ticket in tickets:
            lane[ticket] = next(self._numbers)
        added = len(lane) - before
        self._left(boot, -added)
        return added

    def discard(self, ticket: Ticket) -> None:
        """Remove a ticket. An unknown ticket is ignored."""
        for boot, lane in self._lanes.items():
            if ticket in lane:
                del lane[ticket]
                self._left(boot, 1)
                return

    def take(self, most: int) -> tuple[list[Ticket], dict[Ticket, Boot]]:
        """Remove the next tickets that find room, at most so many. Returns them in order, and those that may boot with
        the boot whose room they took."""
        tickets: list[Ticket] = []
        booting: dict[Ticket, Boot] = {}
        while len(tickets) < most and (boots := self._open()):
            # All tickets of a lane that is alone may go at once, as far as there is room.
            boot = boots[0] if len(boots) == 1 else min(boots, key=self._first)
            lane = self._lanes[boot]
            together = min(most - len(tickets), len(lane)) if len(boots) == 1 else 1
            if boot is not None:
                together = min(together, boot.room)
            taken = [lane.popitem(last=False)[0] for _ in range(together)]
            tickets += taken
            if boot is not None:
                boot.booting += together
                booting.update(dict.fromkeys(taken, boot))
            self._left(boot, together)
        return tickets, booting

    def of_versions(self) -> Counter[str]:
        """How many tickets wait of each version that may boot."""
        return Counter({boot.version: len(lane) for boot, lane in self._lanes.items() if boot is not None})

    def _open(self) -> list[Boot | None]:
        return [boot for boot in self._lanes if boot is None or boot.room > 0]

    def _first(self, boot: Boot | None) -> int:
        return next(iter(self._lanes[boot].values()))

    def _left(self, boot: Boot | None, tickets: int) -> None:
        self._length -= tickets
        if boot is not None:
            boot.waiting -= tickets
        if not self._lanes[boot]:
            del self._lanes[boot]
