"""What a kept file is called when it is saved: as the caller wished, with the ending of what it is.

A wish is a bare name, and never a path. It travels in the link to the file, so anybody may write another one there; it
is looked at again before it goes into a header.
"""

import re
import unicodedata
from typing import Annotated
from urllib.parse import quote

from pydantic import AfterValidator, WithJsonSchema

from catalog.model import Text
from media import BY_EXTENSION

LONGEST = 150
"""Characters. With four bytes for each and an ending, every file system takes it by half."""

_DIRECTIONS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Characters that turn the direction of text and do not show: with them `gpj.exe` may read as `exe.jpg`."""

_BARE = rf'[^/\\:*?"<>|\u0000-\u001f\u007f{_DIRECTIONS}]{{1,{LONGEST}}}'
_ENDINGS = {*BY_EXTENSION, ".jpeg"}


def _checked(name: str) -> str:
    if re.search(f"[{_DIRECTIONS}]", name):
        raise ValueError("must not hold characters that turn the direction of text")
    if not is_bare(name):
        raise ValueError(f"must be a bare file name of at most {LONGEST} characters, without a path")
    return name


DownloadName = Annotated[
    Text,
    AfterValidator(_checked),
    WithJsonSchema({"type": "string", "pattern": rf"^(?![. ]*$){_BARE}$"}),
]


def is_bare(name: str) -> bool:
    """Whether it names a file and nothing more."""
    return bool(re.fullmatch(_BARE, name)) and not set(name) <= {".", " "}


def stem(name: str) -> str:
    """A wish without an ending that says what the file is: that will be told by its content."""
    ending = name[name.rfind(".") :] if name.rfind(".") > 0 else ""
    return name[: -len(ending)] if ending.lower() in _ENDINGS else name


def link_query(wished: str, number: int) -> str:
    """The end of a link to output `number` (from 0) of a generation that is to be called so."""
    return "?name=" + quote(stem(wished) if number == 0 else f"{stem(wished)}-{number + 1}")


def disposition(wished: str, kept_as: str) -> dict[str, str]:
    """The parameters of a Content-Disposition (RFC 6266) for a file that is kept as `0.webp`, say, and is to be called
    `wished`; if that is no name, it is called as it is kept."""
    name = wished + kept_as[kept_as.index(".") :] if is_bare(wished) else kept_as
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    if plain == name:
        return {"filename": name}
    return {
        "filename": plain if is_bare(plain) and is_bare(stem(plain)) and plain[0] != "." else kept_as,
        "filename*": f"UTF-8''{quote(name, safe='')}",
    }
