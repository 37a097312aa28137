"""Which file each row gets: chosen before the row is sent, and never that of another row or an existing file."""

from __future__ import annotations

import glob
import re
from bisect import bisect_left
from collections.abc import Collection
from contextlib import suppress
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Final

from replicate_concurrent import filenames
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.filenames import another, same, with_suffix

_LATER: Final = "{later}"
"""Where a later output of a row has its number, such as `-2`."""

_FORMS: Final = {"{ext}": "[^.]*", "{number}": "[0-9]+", _LATER: "(?:-[0-9]+)?"}
"""What stands for a field in the name of a file, as a regular expression."""


class Names:
    """The names of a batch. `taken` are those of its earlier rows."""

    def __init__(self, directory: Path, template: str, taken: set[str]) -> None:
        self._directory = directory
        self._template = template
        self._taken = set(taken)
        self._existing: dict[str, list[str]] = {}
        """The names in a directory as `filenames.same` has them, in order."""

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
            name = another(wished, f"_{number}")
        self._taken.add(same(name))
        return name

    def of_outputs(self, name: str, count: int, own: Collection[str] = ()) -> str:
        """The name for so many outputs. With the numbers of later ones it is not that of another row. `own` are the
        files that the row has from an earlier run; they may be replaced."""
        if count > 1 and "{number}" not in name and self._is_numbered(name, count):
            mine = {same(PurePosixPath(each).name) for each in own}
            first, suffix = name, ""
            while self._is_numbered(name, count) or same(name) in self._taken or self._exists(name, mine):
                suffix += "_"
                name = another(first, suffix)
            self._taken.add(same(name))
        return name

    def _is_numbered(self, name: str, count: int) -> bool:
        return any(same(with_suffix(name, f"-{number}")) in self._taken for number in range(2, count + 1))

    def _exists(self, name: str, own: Collection[str] = ()) -> bool:
        """Whether a file has this name with any ending, or that of a later output."""
        if "{id}" in name:
            return False
        directory, _, last = name.rpartition("/")
        numbered = last if "{number}" in name else with_suffix(last, _LATER)
        parts = _parts(same(numbered))
        names = self._names_in(directory)
        begun = takewhile(lambda each: each.startswith(parts[0]), names[bisect_left(names, parts[0]) :])
        form = "".join(_FORMS.get(part) or re.escape(part) for part in parts)
        return any(re.fullmatch(form, each) and each not in own for each in begun)

    def _names_in(self, directory: str) -> list[str]:
        if directory not in self._existing:
            form = "".join("*" if part in _FORMS else glob.escape(part) for part in _parts(directory))
            names: set[str] = set()
            for found in self._directory.glob(form) if form else [self._directory]:
                with suppress(OSError):
                    names |= {same(each.name) for each in found.iterdir()}
            self._existing[directory] = sorted(names)
        return self._existing[directory]


def _parts(name: str) -> list[str]:
    """The name cut at its late fields, which are parts of their own."""
    return re.split(r"(\{(?:ext|number|later)\})", name)
