"""The names under which a kept file is linked, and saved.

An output is linked as `/files/{generation}/{generation}.webp`, and the second as `{generation}-2.webp`, so that the
files of a batch do not overwrite each other when they are saved under the last part of their links. It is kept as
`0.webp`. Links of before 0.6.0 end in that, and are answered for ever.

A caller may wish for a name: a bare one, and never a path. It travels in the link to the file, so any holder
of the link may write another one there; it is checked again before it goes into a header. Its ending follows
the file's type.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Annotated
from urllib.parse import quote

from pydantic import AfterValidator, ValidationInfo, WithJsonSchema

from catalog.model import Text, was_accepted
from media.formats import BY_EXTENSION

MAX_LENGTH = 150
"""Characters. With four bytes for each and an ending, every file system takes it by half."""

_DIRECTIONS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Characters that turn the direction of text and do not show: with them `gpj.exe` may read as `exe.jpg`."""

_MISLEADING = rf"[^{_DIRECTIONS}]*[{_DIRECTIONS}]"

_NUMBERS = 12
"""Characters for the numbers of a name in its batch and of an output, `-10000-1000` say."""

_BARE = rf'[^/\\:*?"<>|\u0000-\u001f\u007f]{{1,{MAX_LENGTH}}}'
_DEVICE = (
    r"(?:[Cc][Oo][Nn]|[Pp][Rr][Nn]|[Aa][Uu][Xx]|[Nn][Uu][Ll]|[Cc][Oo][Nn](?:[Ii][Nn]|[Oo][Uu][Tt])\$"
    r"|(?:[Cc][Oo][Mm]|[Ll][Pp][Tt])[1-9¹²³]) *(?:\.|$)"
)
"""Names of devices on Windows, with any ending (learn.microsoft.com/windows/win32/fileio/naming-a-file)."""

_ENDINGS = {*BY_EXTENSION, ".jpeg"}
_LINK = re.compile(
    r"(?P<generation>gen_[0-9a-f]{32})(?:-(?P<place>[2-9]|[1-9][0-9]{1,3}))?(?P<extension>\.\w+)"
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
    """Whether it names a file and nothing more, on every system."""
    return _is_bare(name) and not re.match(rf"{_DEVICE}|{_MISLEADING}", name)


def _is_bare(name: str) -> bool:
    return bool(re.fullmatch(_BARE, name)) and not set(name) <= {".", " "}


def stem(name: str) -> str:
    """A wish without an ending that says what the file is: that will be told by its content."""
    ending = name[name.rfind(".") :] if name.rfind(".") > 0 else ""
    return name[: -len(ending)] if ending.lower() in _ENDINGS else name


# ── Names that do not meet


def saved_name(wished: str, number: int) -> str:
    """The name under which output `number` (from 0) of a generation is saved, without its ending."""
    ending = f"-{number + 1}" if number else ""
    return stem(wished)[: MAX_LENGTH - len(ending)] + ending


def comparison_keys(wished: str, outputs: int) -> set[str]:
    """The form in which names are compared: two that are equal here could overwrite each other on some file system."""
    names = (unicodedata.normalize("NFC", saved_name(wished, number)) for number in range(outputs))
    return {unicodedata.normalize("NFC", name.casefold()) for name in names}


def first_collision(wishes: Iterable[tuple[str, int]]) -> tuple[str, str] | None:
    """The first two of these wishes, each for so many outputs, that would be saved under one name. None if all are
    apart."""
    taken: dict[str, str] = {}
    for wished, outputs in wishes:
        keys = comparison_keys(wished, outputs)
        if met := keys & taken.keys():
            return taken[min(met)], wished
        taken |= dict.fromkeys(keys, wished)
    return None


def distinct_names(wishes: Sequence[tuple[str, int] | None]) -> list[str | None]:
    """The wishes, each for so many outputs, with a number where one would be saved under the name of another: `fox`
    and `fox` become `fox` and `fox-2`. The first of a name keeps it."""
    taken: set[str] = set()
    names: list[str | None] = []
    later: list[int] = []
    for index, wish in enumerate(wishes):
        names.append(wish and wish[0])
        if wish is not None and taken.isdisjoint(keys := comparison_keys(*wish)):
            taken |= keys
        elif wish is not None:
            later.append(index)
    numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(2))
    for index in later:
        wished, outputs = wishes[index] or ("", 0)
        base = stem(wished)[: MAX_LENGTH - _NUMBERS]
        for number in numbers[base.casefold()]:
            name = f"{base}-{number}"
            if taken.isdisjoint(keys := comparison_keys(name, outputs)):
                break
        taken |= keys
        names[index] = name
    return names


# ── Links and headers


def link_name(generation_id: str, name_in_storage: str) -> str:
    """The last part of the link to a file of a generation that is kept as `0.webp`, say."""
    number, _, extension = name_in_storage.partition(".")
    place = f"-{int(number) + 1}" if int(number) else ""
    return f"{generation_id}{place}.{extension}"


def stored_name(generation_id: str, name: str) -> str:
    """The name under which a file is kept, by the last part of a link to it, new or old."""
    found = _LINK.fullmatch(name)
    if found is None or found["generation"] != generation_id:
        return name
    return f"{int(found['place'] or 1) - 1}{found['extension']}"


def link_query(wished: str, generation_id: str, name: str) -> str:
    """The end of a link that ends in `name`, to an output of a generation that is to be called so."""
    number, _, _ = stored_name(generation_id, name).partition(".")
    return "?name=" + quote(saved_name(wished, int(number)))


def content_disposition(wished: str, linked_as: str) -> dict[str, str]:
    """The parameters of a Content-Disposition (RFC 6266) for a file that is linked as `linked_as` and is to be called
    `wished`; if that is no name, it is called as it is linked. Clients that do not read `filename*` get that of the
    link for a name that is not ASCII: without its accents, it could be the name of another file."""
    name = wished + linked_as[linked_as.index(".") :] if is_usable(wished) else linked_as
    if name.isascii():
        return {"filename": name}
    return {"filename": linked_as, "filename*": f"UTF-8''{quote(name, safe='')}"}
