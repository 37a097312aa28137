"""Decides which connections without a complete request are dropped, and when. Pure: `now` is an argument.

Each connection costs a file descriptor and a little memory. So their number is bounded, and one address may have at
most half of them. Beyond the bound a new connection is still accepted, and the oldest connection of the address with
the most is dropped: real clients send their request at once, so a flood of silent connections displaces itself.
"""

from collections import OrderedDict
from typing import Final, Generic, TypeVar

C = TypeVar("C")

PATIENCE: Final = 15.0
"""Seconds for a connection to send a complete request head, and to stay idle after a request."""

HURRIED: Final = 2.0
"""The same while more than half of the bound wait for their first request."""


class Arrivals(Generic[C]):
    """Connections in order of arrival, by address. `most` is the bound for all of them, and `share` for one
    address, by default half of it. `hurried` is the patience in seconds while more than half of the bound wait."""

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
        """Add a connection. Returns the connections that are dropped for it."""
        self._since[connection] = (now, address)
        mine = self._by_address.setdefault(address, OrderedDict())
        mine[connection] = None
        if len(mine) > self._share:
            return [self._give_up_oldest(mine)]
        return self.shed() if len(self._since) > self._most else []

    def shed(self) -> list[C]:
        """Drop the oldest connection of the address with the most. Returns it, or an empty list."""
        return [self._give_up_oldest(max(self._by_address.values(), key=len))] if self._since else []

    def remove(self, connection: C) -> None:
        """Remove a connection whose request is complete, or that is closed."""
        _, address = self._since.pop(connection)
        mine = self._by_address[address]
        del mine[connection]
        if not mine:
            del self._by_address[address]

    def overdue(self, now: float, *, patience: float = PATIENCE) -> list[C]:
        """Remove and return the connections that took too long."""
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
