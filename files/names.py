"""The names of an output: in its storage, in its link, and of its download.

The first output is linked as `/files/{generation}/{generation}.webp` and the second as `{generation}-2.webp`, so that
the files of a batch do not overwrite each other when saved under the last part of their links. The storage has them as
`0.webp` and `1.webp`. Links before 0.6.0 end in those names and stay valid.

A caller may request a download name, without a path. It is part of the link, which any user of the link can edit, so
it is checked again before it goes into a header. The extension follows from the media type.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Annotated
from urllib.parse import quote

from pydantic import AfterValidator, ValidationInfo, WithJsonSchema

from catalog.text_values import Text, was_accepted
from contract.ids import GENERATION
from media.files import FILE_TYPES

MAX_LENGTH = 150
"""Characters of a download name."""

_DIRECTIONS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Invisible characters that change the direction of text. With them, `gpj.exe` may be shown as `exe.jpg`."""

_MISLEADING = rf"[^{_DIRECTIONS}]*[{_DIRECTIONS}]"

_NUMBERS = 12
"""Characters for the numbers after a name, such as `-10000-1000`: of its request in a batch and of the output."""

_BARE = rf'[^/\\:*?"<>|\u0000-\u001f\u007f]{{1,{MAX_LENGTH}}}'
_DEVICE = (
    r"(?:[Cc][Oo][Nn]|[Pp][Rr][Nn]|[Aa][Uu][Xx]|[Nn][Uu][Ll]|[Cc][Oo][Nn](?:[Ii][Nn]|[Oo][Uu][Tt])\$"
    r"|(?:[Cc][Oo][Mm]|[Ll][Pp][Tt])[1-9¹²³]) *(?:\.|$)"
)
"""Names of devices on Windows, with any extension (learn.microsoft.com/windows/win32/fileio/naming-a-file)."""

_ENDINGS = {each.extension for each in FILE_TYPES.values() if each.kind not in {"text", "data"}} | {".jpeg"}
_LINK = re.compile(
    rf"(?P<generation>{GENERATION})(?:-(?P<place>[2-9]|[1-9][0-9]{{1,3}}))?(?P<extension>\.\w+)"
)


def _checked(name: str, info: ValidationInfo) -> str:
    if re.match(_MISLEADING, name) and not was_accepted(info):
        raise ValueError("must not hold characters that turn the direction of text")
    if not _is_bare(name):
        raise ValueError(f"must be a bare file name of at most {MAX_LENGTH} characters, without a path")
    if re.match(_DEVICE, name) and not was_accepted(info):
        raise ValueError("must not be the name of a device, as CON, NUL or LPT1 are on Windows")
    return name


DownloadName = Annotated[
    Text,
    AfterValidator(_checked),
    WithJsonSchema({"type": "string", "pattern": rf"^(?![. ]*$)(?!{_DEVICE})(?!{_MISLEADING}){_BARE}$"}),
]


def is_usable(name: str) -> bool:
    """Whether a name is a valid file name on every system."""
    return _is_bare(name) and not re.match(rf"{_DEVICE}|{_MISLEADING}", name)


def _is_bare(name: str) -> bool:
    return bool(re.fullmatch(_BARE, name)) and not set(name) <= {".", " "}


def stem(name: str) -> str:
    """A requested name without the extension of an image, a video, a sound or a 3D model, which follows from the
    content."""
    ending = name[name.rfind(".") :] if name.rfind(".") > 0 else ""
    return name[: -len(ending)] if ending.lower() in _ENDINGS else name


# ── Distinct names


def saved_name(requested: str, number: int) -> str:
    """The download name of output `number` (from 0), without its extension."""
    ending = f"-{number + 1}" if number else ""
    return stem(requested)[: MAX_LENGTH - len(ending)] + ending


def comparison_keys(requested: str, outputs: int) -> set[str]:
    """The download names of all outputs in a form for comparison: equal ones could overwrite each other on some file
    system."""
    names = (unicodedata.normalize("NFC", saved_name(requested, number)) for number in range(outputs))
    return {unicodedata.normalize("NFC", name.casefold()) for name in names}


def first_collision(requests: Iterable[tuple[str, int]]) -> tuple[str, str] | None:
    """The first two requested names that would be saved under one name, or None. Each comes with its number of
    outputs."""
    taken: dict[str, str] = {}
    for requested, outputs in requests:
        keys = comparison_keys(requested, outputs)
        if common := keys & taken.keys():
            return taken[min(common)], requested
        taken |= dict.fromkeys(keys, requested)
    return None


def distinct_names(requests: Sequence[tuple[str, int] | None]) -> list[str | None]:
    """The requested names, with a number where one would be saved under the name of another: `fox` and `fox` become
    `fox` and `fox-2`. Each comes with its number of outputs; the first keeps its name."""
    taken: set[str] = set()
    names: list[str | None] = []
    later: list[int] = []
    for index, request in enumerate(requests):
        names.append(request and request[0])
        if request is not None and taken.isdisjoint(keys := comparison_keys(*request)):
            taken |= keys
        elif request is not None:
            later.append(index)
    numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(2))
    for index in later:
        requested, outputs = requests[index] or ("", 0)
        base = stem(requested)[: MAX_LENGTH - _NUMBERS]
        for number in numbers[base.casefold()]:
            name = f"{base}-{number}"
            if taken.isdisjoint(keys := comparison_keys(name, outputs)):
                break
        taken |= keys
        names[index] = name
    return names


# ── Links and headers


def link_name(generation_id: str, name_in_storage: str) -> str:
    """The last part of the link to a file that is stored as `0.webp`, for example."""
    number, _, extension = name_in_storage.partition(".")
    place = f"-{int(number) + 1}" if int(number) else ""
    return f"{generation_id}{place}.{extension}"


def stored_name(generation_id: str, name: str) -> str:
    """The name in the storage, from the last part of a link, new or old."""
    found = _LINK.fullmatch(name)
    if found is None or found["generation"] != generation_id:
        return name
    return f"{int(found['place'] or 1) - 1}{found['extension']}"


def link_query(requested: str, generation_id: str, name: str) -> str:
    """The query that requests a download name, for a link that ends in `name`."""
    number, _, _ = stored_name(generation_id, name).partition(".")
    return "?name=" + quote(saved_name(requested, int(number)))


def content_disposition(requested: str, linked_as: str) -> dict[str, str]:
    """The parameters of Content-Disposition (RFC 6266) for a file with the link name `linked_as`.

    An invalid requested name is replaced by the link name. If the name is not ASCII, clients without support for
    `filename*` get the link name: a name stripped of its accents could be that of another file.
    """
    name = requested + linked_as[linked_as.index(".") :] if is_usable(requested) else linked_as
    if name.isascii():
        return {"filename": name}
    return {"filename": linked_as, "filename*": f"UTF-8''{quote(name, safe='')}"}
