"""The ended rows that a keeper of a gate follows no more."""

import asyncio


class EndedRows:
    """Rows that count no more, or not for long, and when they may be deleted."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def __contains__(self, row_id: str) -> bool:
        return row_id in self._until

    def add(self, row_id: str, kept: float = 0.0) -> None:
        """Keep this row for so many seconds, for the next holder. A later call replaces an earlier one."""
        self._until[row_id] = asyncio.get_running_loop().time() + kept

    def take_old(self) -> list[str]:
        """The rows that may be deleted now. They are forgotten here."""
        now = asyncio.get_running_loop().time()
        old = [row_id for row_id, until in self._until.items() if until <= now]
        for row_id in old:
            del self._until[row_id]
        return old

    def clear(self) -> None:
        self._until.clear()
