"""The images of a training: those of a folder, listed files, a zip, or the address of one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from replicate_concurrent.operations.references import part_of
from replicate_concurrent.operations.steps import Part
from replicate_concurrent.results import Upload
from replicate_concurrent.schemas import is_address

IMAGES: Final = "images"
"""The field of the request, and the name of each part with a file."""

_ENDINGS: Final = frozenset({
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".jxl", ".png", ".tif", ".tiff",
    ".webp",
})  # fmt: skip
"""Images in a folder. Those that no trainer reads are sent, too: the service names them, and none is left out
unnoticed."""

_CAPTION: Final = ".txt"


def sent_images(images: Any) -> str | tuple[Part, ...]:
    """The address of a zip, or the files as parts. It may block. Raises TypeError, OSError for a file that cannot be
    read, and ValueError if there is none."""
    if isinstance(images, Upload):
        return images.url
    if isinstance(images, str) and is_address(images):
        return images
    paths = _paths(images)
    if not paths:
        raise ValueError(f"{images} has no images" if _is_path(images) else "the list of images is empty")
    return tuple(part_of(IMAGES, path) for path in paths)


def _paths(images: Any) -> list[Path]:
    if _is_path(images):
        path = Path(images).expanduser()
        return _in_folder(path) if path.is_dir() else [path]
    if not isinstance(images, Iterable) or isinstance(images, (bytes, bytearray)):
        raise TypeError(
            f"images must be a folder, a zip, a list of paths or an address, got {type(images).__name__}"
        )
    listed = [*images]
    for each in listed:
        if not _is_path(each) or is_address(os.fspath(each)):
            raise TypeError(f"a list of images has paths alone, got {each!r}")
    return [Path(each).expanduser() for each in listed]


def _in_folder(folder: Path) -> list[Path]:
    """The images in a folder, and the captions beside them, by name. Hidden files and folders in it are left out."""
    files = sorted(each for each in folder.iterdir() if each.is_file() and not each.name.startswith("."))
    images = {each.stem for each in files if each.suffix.lower() in _ENDINGS}
    return [
        each
        for each in files
        if each.suffix.lower() in _ENDINGS or (each.suffix.lower() == _CAPTION and each.stem in images)
    ]


def _is_path(value: object) -> bool:
    return isinstance(value, (str, os.PathLike))
