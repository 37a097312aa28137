"""The kept files in memory, oldest first: which are too old, and which must go to make room."""

from collections.abc import Iterable
from itertools import islice

from files.storage import Stored


class Index:
    """Names with their sizes (bytes) and dates (seconds since the epoch). `size` is the sum of the sizes."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, float]] = {}  # in the order they came
        self.size = 0

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def add(self, file: Stored) -> None:
        """Add a file as the newest. Its date is ignored, since clocks may be set back."""
        self.remove(file.name)
        self._files[file.name] = (file.size, file.modified)
        self.size += file.size

    def remove(self, name: str) -> None:
        size, _ = self._files.pop(name, (0, 0.0))
        self.size -= size

    def replace(self, listed: Iterable[Stored], *, since: float) -> None:
        """Replace all files by those listed. Files that were added since the listing began may be missing from it, so
        they stay."""
        newer = [Stored(name, *file) for name, file in self._files.items() if file[1] >= since]
        self._files.clear()
        self.size = 0
        for file in (*sorted(listed, key=lambda each: each.modified), *newer):
            self.add(file)

    def up_to(self, date: float, *, most: int) -> list[str]:
        """The oldest that are not newer than that date."""
        return [name for name, (_, modified) in islice(self._files.items(), most) if modified <= date]

    def beyond(self, budget: float, *, most: int) -> list[str]:
        """The oldest, as many as have to go for the rest to fit into so many bytes."""
        names: list[str] = []
        left = self.size
        for name, (size, _) in islice(self._files.items(), most):
            if left <= budget:
                break
            names.append(name)
            left -= size
        return names
