"""An index of the stored files, oldest first: which have expired, and which to evict to make room."""

from collections.abc import Iterable
from itertools import islice

from files.storage import StoredFile


class FileIndex:
    """Names with their sizes (bytes) and dates (Unix times). `size` is the sum of the sizes."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, float]] = {}  # oldest first
        self.size = 0

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def add(self, file: StoredFile) -> None:
        """Add a file as the newest, with any date: the clock may have been set back."""
        self.remove(file.name)
        self._files[file.name] = (file.size, file.modified)
        self.size += file.size

    def remove(self, name: str) -> int:
        """Remove a file if it is there. Returns its size."""
        size, _ = self._files.pop(name, (0, 0.0))
        self.size -= size
        return size

    def replace(self, listed: Iterable[StoredFile], *, since: float) -> None:
        """Replace all files by a listing that began at `since`. Files added after that may be missing from it, and
        stay."""
        newer = [StoredFile(name, *file) for name, file in self._files.items() if file[1] >= since]
        self._files.clear()
        self.size = 0
        for file in (*sorted(listed, key=lambda each: each.modified), *newer):
            self.add(file)

    def expired(self, date: float, *, most: int) -> list[str]:
        """The files from up to this date, at most `most` of them."""
        return [name for name, (_, modified) in islice(self._files.items(), most) if modified <= date]

    def excess(self, budget: float, *, most: int) -> list[str]:
        """The oldest files to delete so that the others fit into `budget` bytes, at most `most` of them."""
        names: list[str] = []
        left = self.size
        for name, (size, _) in islice(self._files.items(), most):
            if left <= budget:
                break
            names.append(name)
            left -= size
        return names
