"""What a text value of a request may contain."""

import unicodedata
from typing import Annotated, Any, Final

from pydantic import AfterValidator, ValidationInfo, WithJsonSchema

_BLANK_LETTERS: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")
"""Hangul fillers and the empty Braille pattern: invisible, though Unicode classes them as letters and symbols."""

TEXT_SCHEMA: Final[dict[str, Any]] = {"type": "string", "pattern": r"^[^\u0000]*$"}
"""The JSON Schema of a text."""

PROMPT_SCHEMA: Final[dict[str, Any]] = {
    "type": "string",
    "pattern": r"^[^\u0000]*[^\s\u0000][^\u0000]*$",
    "description": "With at least one visible character.",
}


def usable_text(value: str) -> str:
    """The text. Raises ValueError for a text that a database or JSON cannot hold."""
    if "\0" in value:
        raise ValueError("must not contain NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain lone surrogates") from None
    return value


def is_blank(text: str) -> bool:
    """Whether the text has no visible character: only spaces, controls, format characters, marks, blank letters."""
    return all(
        character in _BLANK_LETTERS
        or unicodedata.category(character)[0] in "ZM"
        or unicodedata.category(character) in {"Cc", "Cf"}
        for character in set(text)
    )


ACCEPTED: Final = {"accepted": True}
"""The validation context of a request that an earlier version may have accepted: rules that came later must not
end running work."""


def was_accepted(info: ValidationInfo) -> bool:
    """Whether the request was accepted before."""
    return info.context is ACCEPTED


Text = Annotated[str, AfterValidator(usable_text), WithJsonSchema(TEXT_SCHEMA)]
"""A field of this service that holds text."""


class FormText(str):
    """The text of a field in a form for a model that is not declared. Its schema says whether it is a number."""

    __slots__ = ()
