"""Connections without a complete request: which are given up, and when. No sockets and no clock, `now` is an argument.

A connection costs a descriptor and a little memory until its request is there. So there is a bound, and one address
has at most half of it. Beyond the bound a newcomer still comes in, and the oldest connection of the address with the
most is given up: a client sends its request at once, and a flood that sends nothing displaces itself.
"""

from collections import OrderedDict
from typing import Final, Generic, TypeVar

C = TypeVar("C")

PATIENCE: Final = 15.0
"""Seconds that a connection may take to send a whole request head. An idle one is kept as long after a request."""

HURRIED: Final = 2.0
"""The same once more than half of the bound wait for their first request."""


class Arrivals(Generic[C]):
    """Connections in the order in which they came, by address. `most` is the bound for all of them and `share` for one
    address, by default half of it; `hurried` is the patience once more than half of the bound wait."""

    def __init__(self, most: int, *, share: int | None = None, hurried: float = HURRIED) -> None:
        self._most = most
        self._hurried = hurried
        self._share = max(1, most // 2) if share is None else share
        self._since: OrderedDict[C, tuple[float, str]] = OrderedDict()
        self._by_address: dict[str, OrderedDict[C, None]] = {}

    def __len__(self) -> int:
        return len(self._since)

    def __contains__(self, connection: C) -> bool:
        return connection in self._since

    def add(self, connection: C, address: str, now: float) -> list[C]:
        """Add a connection. Returns those that are given up for it."""
        self._since[connection] = (now, address)
        mine = self._by_address.setdefault(address, OrderedDict())
        mine[connection] = None
        if len(mine) > self._share:
            return [self._give_up_oldest(mine)]
        return self.shed() if len(self._since) > self._most else []

    def shed(self) -> list[C]:
        """Give up the oldest of the address with the most, if there is one."""
        return [self._give_up_oldest(max(self._by_address.values(), key=len))] if self._since else []

    def remove(self, connection: C) -> None:
        """Its request is there, or it is gone."""
        _, address = self._since.pop(connection)
        mine = self._by_address[address]
        del mine[connection]
        if not mine:
            del self._by_address[address]

    def overdue(self, now: float, *, patience: float = PATIENCE) -> list[C]:
        """Those that took too long; they are removed."""
        if len(self._since) > self._most // 2:
            patience = min(patience, self._hurried)
        late = []
        while self._since:
            connection, (since, _) = next(iter(self._since.items()))
            if now - since < patience:
                break
            self.remove(connection)
            late.append(connection)
        return late

    def _give_up_oldest(self, of: OrderedDict[C, None]) -> C:
        oldest = next(iter(of))
        self.remove(oldest)
        return oldest
