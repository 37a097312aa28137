"""Names of files in a zip: which are safe to unpack, which are left out, and in which folder they are."""

import re
import stat
from typing import Final

LONGEST_NAME: Final = 255
"""Bytes of a file's or folder's name in UTF-8, as on most file systems."""

_UNPRINTABLE: Final = re.compile(r"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line ends, and halves of characters that a form may have."""
_DRIVE: Final = re.compile(r"[A-Za-z]:")

_LEFTOVERS: Final = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_LEFTOVER_FOLDER: Final = "__MACOSX/"


def unsafe(name: str) -> str | None:
    """Why a file of this name must not be unpacked, or None. A folder's name ends with a slash."""
    parts = name.removesuffix("/").split("/")
    if not name:
        return "has no name"
    if _UNPRINTABLE.search(name):
        return "has an unprintable character in its name"
    if "\\" in name:
        return "has a backslash in its name"
    if name.startswith("/") or _DRIVE.match(name):
        return "has an absolute path"
    if {"", ".", ".."} & set(parts):
        return "has a path that may lead out of its folder"
    if any(len(part.encode(errors="replace")) > LONGEST_NAME for part in parts):
        return f"has a name of more than {LONGEST_NAME} bytes"
    return None


def wrong_mode(name: str, mode: int) -> str | None:
    """Why a file with these mode bits of Unix is not a plain file or folder, or None. `mode` 0 has no information."""
    if stat.S_ISLNK(mode):
        return "is a symbolic link"
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR and not name.endswith("/")):
        return "is not a plain file"
    return None


def is_leftover(name: str) -> bool:
    """Whether it is a file that macOS or Windows adds to folders and zips."""
    return name.startswith(_LEFTOVER_FOLDER) or name.rpartition("/")[2] in _LEFTOVERS


def folder_of(name: str) -> str:
    """The path before the file's own name, with a slash at its end, or an empty text."""
    return "".join(name.rpartition("/")[:2])


def stem_of(name: str) -> str:
    """The path and name without the extension."""
    folder, own = folder_of(name), name.rpartition("/")[2]
    return folder + (own.rpartition(".")[0] or own)


def extension_of(name: str) -> str:
    """The extension with its dot, such as `.jpg`, or an empty text."""
    return name[len(stem_of(name)) :]


def shown(name: str) -> str:
    """A name as it may stand in a message: without unprintable characters, and not too long."""
    plain = _UNPRINTABLE.sub("?", name)
    return plain if len(plain) <= LONGEST_NAME else f"{plain[:LONGEST_NAME]}..."
