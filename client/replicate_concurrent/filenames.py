"""Names of files, from a template such as `{index:04d}-{slug}.{ext}` and the facts of a generation.

Each part of a name is valid on Windows, macOS and Linux, for any content of a prompt or a table. Only the template may
name directories, and none of them leaves the directory of the outputs. Names that differ only in case count as equal,
since macOS and Windows keep one file for both.
"""

import re
import string
import unicodedata
from collections.abc import Collection, Mapping
from typing import Final

BATCH: Final = "{index:04d}-{slug}.{ext}"
"""The template of a batch."""

LATE: Final = frozenset({"ext", "id", "number"})
"""The fields that are known when the generation has ended."""

_LONGEST: Final = 180
"""Bytes of a part of a rendered name, with the fields of `LATE` in it."""

_LONGEST_COMPLETED: Final = 240
"""Bytes of a part of a complete name: its number and its `LATE` fields may be longer. File systems take 255."""

_LONGEST_VALUE: Final = 120
_LONGEST_SLUG: Final = 48
_LONGEST_ENDING: Final = 10

_FORBIDDEN: Final = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*{}]+')
"""What Windows forbids in names, and the braces, which mark the fields of a template."""

_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"}
)
_FIELD: Final = re.compile(r"[^{}.\[\]!:]+")
_LATE_FIELD: Final = re.compile(rf"(\{{(?:{'|'.join(sorted(LATE))})\}})")


def check(template: str, fields: Collection[str]) -> None:
    """Raise ValueError, with a sentence about it, unless the template is the name of a file below a directory. `fields`
    are the names that it may contain beside those of `LATE`."""
    for name in used(template):
        if name not in fields and name not in LATE:
            raise ValueError(f"{{{name}}} is no field of a file name; there are {_listed({*fields, *LATE})}")
    if "\\" in template or re.match(r"[A-Za-z]:", template):
        raise ValueError(f"{template!r} is a path of Windows; directories are separated by / here")
    parts = template.split("/")
    if not parts[0] or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{template!r} must be the name of a file below the directory of the outputs")


def used(template: str) -> list[str]:
    """The fields of the template, in order. Raises ValueError if it cannot be read."""
    names = []
    try:
        for _, name, spec, conversion in string.Formatter().parse(template):
            if name is None:
                continue
            if conversion or "{" in (spec or "") or not _FIELD.fullmatch(name):
                raise ValueError("a field has a name and perhaps a format, such as {index:04d}")
            if name in LATE and spec:
                raise ValueError(f"{{{name}}} takes no format")
            names.append(name)
    except ValueError as reason:
        raise ValueError(f"{template!r} is not a file name: {reason}") from None
    return names


def rendered(template: str, values: Mapping[str, object]) -> str:
    """The name with the values in it. Fields of `LATE` that have no value stay, for `completed`.

    Raises:
        ValueError: If a value does not fit the format of its field.
    """
    pieces = []
    for text, name, spec, _ in string.Formatter().parse(template):
        pieces.append(text)
        if name in LATE and name not in values:
            pieces.append(f"{{{name}}}")
        elif name is not None:
            pieces.append(_formatted(name, values.get(name, ""), spec or ""))
    return "/".join(_valid(part, _LONGEST) for part in "".join(pieces).split("/"))


def completed(name: str, *, extension: str, generation: str, number: int = 1) -> str:
    """The name of an output, from a rendered one. `extension` may begin with a dot. `number` is that of the output,
    from 1; if the name has no place for it, the second gets `-2` before its ending, and so on."""
    late = {"ext": cleaned(extension.lstrip(".")) or "bin", "id": cleaned(generation), "number": str(number)}
    ended = name if "{number}" in name or number == 1 else with_suffix(name, f"-{number}")
    for field, value in late.items():
        ended = ended.replace(f"{{{field}}}", value)
    return "/".join(_valid(part, _LONGEST_COMPLETED) for part in ended.split("/"))


def another(name: str, suffix: str) -> str:
    """A rendered name with `suffix` before its ending, and no longer than a rendered name may be."""
    directory, slash, last = name.rpartition("/")
    return f"{directory}{slash}{with_suffix(_cut(last, _LONGEST - len(suffix)), suffix)}"


def with_suffix(name: str, suffix: str) -> str:
    """The name with `suffix` before its ending."""
    directory, slash, last = name.rpartition("/")
    stem, dot, ending = last.rpartition(".")
    return f"{directory}{slash}{stem}{suffix}{dot}{ending}" if dot and stem else f"{name}{suffix}"


def same(name: str) -> str:
    """Equal for names that are one file on some system."""
    return unicodedata.normalize("NFC", name).casefold()


def cleaned(text: str) -> str:
    """The text as a part of a name, without what some system forbids there. It may be empty."""
    plain = unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode()
    return re.sub(r"\s+", " ", _FORBIDDEN.sub("_", plain)).strip(" .")


def slug(text: str) -> str:
    """The first words of a prompt, in lower case with hyphens, as in `a-red-fox`."""
    words = re.findall(r"\w+", unicodedata.normalize("NFC", text).lower().replace("_", " "))
    taken = ""
    for word in words:
        longer = f"{taken}-{word}" if taken else word[:_LONGEST_SLUG]
        if len(longer) > _LONGEST_SLUG:
            break
        taken = longer
    return taken or "untitled"


def _formatted(name: str, value: object, spec: str) -> str:
    try:
        text = cleaned(format(value, spec) if spec else str(value))
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} of {{{name}}} does not fit the format {spec!r}") from None
    return text.encode()[:_LONGEST_VALUE].decode("utf-8", "ignore").strip(" .")


def _valid(part: str, longest: int) -> str:
    """A part of a path that each system accepts, of so many bytes at most."""
    part = part.strip(" ").rstrip(" .") or "_"
    if part.split(".")[0].rstrip().casefold() in _DEVICES:
        part = f"_{part}"
    return _cut(part, longest)


def _cut(part: str, longest: int) -> str:
    """The part of a path in so many bytes, without the last letters before its ending. Fields of `LATE` stay."""
    over = len(part.encode()) - longest
    if over <= 0:
        return part
    stem, dot, ending = part.rpartition(".")
    if not stem or len(ending) > _LONGEST_ENDING:
        stem, dot, ending = part, "", ""
    pieces = _LATE_FIELD.split(stem)  # each second one is a field
    for at in range(len(pieces) - 1, -1, -2):
        whole = pieces[at].encode()
        pieces[at] = whole[: max(0, len(whole) - max(0, over))].decode("utf-8", "ignore")
        over -= len(whole) - len(pieces[at].encode())
    return "".join(pieces).rstrip(" .") + dot + ending


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names))
