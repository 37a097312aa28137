"""Builds the zip that a training reads from images and captions that were sent one by one.

The same parts give the same bytes, so that a repeated request can be recognised, and an upload used again.
"""

import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datasets.contents import BLOCK
from datasets.examine import EXTENSIONS, MOST_FILES, Dataset, examine
from datasets.names import extension_of, is_leftover, shown, stem_of, unsafe
from datasets.refusals import LARGEST, DatasetRefused, DatasetTooLarge, Problem
from media.files import FILE_TYPES
from media.formats import HEAD, JPEG, PNG, WEBP, media_type

_HEADERS: Final = 30 + 46
"""Bytes in the zip of each file, with twice its name (APPNOTE 4.3.7 and 4.3.12)."""

_END: Final = 22

_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
"""The first date that a zip can hold."""

_OTHER_IMAGES: Final = frozenset(
    {".heif", ".jfif", ".jpe", ".tif"} | {end for end, media in FILE_TYPES.items() if media.kind == "image"}
)


@dataclass(frozen=True, slots=True)
class Part:
    """A file that was sent: `name` as its sender wrote it, of which only the part after the last slash or backslash is
    used, and the `path` of its content."""

    name: str
    path: Path


def build(parts: Sequence[Part], target: Path) -> Dataset:
    """Write a zip of the parts to `target`, without compression, and examine it. An image whose name does not end as
    trainers need it gets an extension by its content, such as `photo` and `photo.heic` that are JPEGs.

    Raises DatasetTooLarge, before it writes anything, and DatasetRefused with the names as they are in the zip. Raises
    OSError if a part cannot be read or the zip not written. Then there is no `target`, also if there was one before.
    """
    if len(parts) > MOST_FILES:
        raise DatasetRefused([Problem(None, f"has more than {MOST_FILES:,} files")])
    sizes = {part.path: part.path.stat().st_size for part in parts}
    files = _named(parts)
    names = sum(_HEADERS + 2 * len(name.encode()) for name in files)
    if names + sum(sizes[path] for path in files.values()) + _END > LARGEST:
        raise DatasetTooLarge
    try:
        with zipfile.ZipFile(target, "w") as archive:
            for name, path in sorted(files.items()):
                _copy(archive, name, path, sizes[path])
        return examine(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _named(parts: Sequence[Part]) -> dict[str, Path]:
    """The parts by their names in the zip. Raises DatasetRefused if one is unsafe, or there twice."""
    files: dict[str, Path] = {}
    problems = []
    for part in parts:
        own = part.name.replace("\\", "/").rpartition("/")[2]
        name = own if unsafe(own) else _with_extension(own, part.path)
        if message := unsafe(name) or ("is there twice" if name in files else None):
            problems.append(Problem(shown(name or part.name), message))
        elif not is_leftover(name):
            files[name] = part.path
    if problems:
        raise DatasetRefused(problems)
    return files


def _with_extension(name: str, path: Path) -> str:
    """The name, with an extension by content if it is an image without one that trainers know."""
    extension = extension_of(name).lower()
    with path.open("rb") as file:
        media = media_type(file.read(HEAD))
    if media not in (JPEG, PNG, WEBP) or extension in (*EXTENSIONS, ".txt"):
        return name
    return (stem_of(name) if extension in _OTHER_IMAGES else name) + media.extension


def _copy(archive: zipfile.ZipFile, name: str, path: Path, size: int) -> None:
    """Add a file of `size` bytes. Raises DatasetTooLarge if it has grown, so that the whole stays within its bound."""
    info = zipfile.ZipInfo(name, _EARLIEST)
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    info.file_size = size
    with path.open("rb") as file, archive.open(info, "w") as member:
        while block := file.read(BLOCK):
            size -= len(block)
            if size < 0:
                raise DatasetTooLarge
            member.write(block)
