"""Which file each row gets: chosen before the row is sent, and never that of another row or an existing file."""

from __future__ import annotations

from pathlib import Path

from replicate_concurrent import filenames
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.filenames import same, with_suffix


class Names:
    """The names of a batch. `taken` are those of its earlier rows."""

    def __init__(self, directory: Path, template: str, taken: set[str]) -> None:
        self._directory = directory
        self._template = template
        self._taken = set(taken)
        self._existing: dict[str, set[str]] = {}
        """The stems of the files in a directory."""

    def reserve(self, row: Row) -> str:
        """The name of the row's files, which may have `{ext}`, `{id}` and `{number}` in it. A name that is taken gets
        `_2` before its ending, and so on.

        Raises:
            ValueError: If a value of the row does not fit the template.
        """
        wished = filenames.rendered(self._template, row.values)
        name, number = wished, 1
        while same(name) in self._taken or self._exists(name):
            number += 1
            name = with_suffix(wished, f"_{number}")
        self._taken.add(same(name))
        return name

    def of_outputs(self, name: str, count: int) -> str:
        """The name for so many outputs. With the numbers of later ones it is not that of another row."""
        while count > 1 and "{number}" not in name and self._is_numbered(name, count):
            name = with_suffix(name, "_")
        return name

    def _is_numbered(self, name: str, count: int) -> bool:
        return any(same(with_suffix(name, f"-{number}")) in self._taken for number in range(2, count + 1))

    def _exists(self, name: str) -> bool:
        """Whether a file has this name with any ending."""
        directory, _, last = name.rpartition("/")
        if "{id}" in last:
            return False
        if directory not in self._existing:
            self._existing[directory] = _stems(self._directory / directory)
        stem = last.removesuffix(".{ext}") if last.endswith(".{ext}") else last
        return same(stem) in self._existing[directory]


def _stems(directory: Path) -> set[str]:
    """The names in a directory, with and without their endings, as `filenames.same` has them."""
    try:
        names = [each.name for each in directory.iterdir()]
    except OSError:
        return set()
    return {same(name) for name in names} | {same(name.rpartition(".")[0]) for name in names}
