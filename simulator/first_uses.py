"""Remembers which texts were used before, for outcomes of only the first use."""

from collections import OrderedDict

_REMEMBERED = 10_000


class FirstUses:
    """The hashes of the latest ten thousand texts, in the order of their first use."""

    def __init__(self) -> None:
        self._used: OrderedDict[int, None] = OrderedDict()

    def is_first(self, text: str) -> bool:
        """True at the first call with this text."""
        key = hash(text)
        if key in self._used:
            return False
        self._used[key] = None
        if len(self._used) > _REMEMBERED:
            self._used.popitem(last=False)
        return True
