"""Makes text of an upstream safe to log, keep and show. It removes credentials of the call, and characters
that a database or a JSON reader may refuse (NUL, and halves of surrogate pairs). Text is made safe after its
JSON is parsed, so that no escape hides anything.
"""

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Final

from auth import Caller

REDACTED: Final = "[token]"

SHORTEST: Final = 6
"""The least characters of a credential that is removed wherever it stands. To remove shorter ones would remove parts of
ordinary words, so they are removed where they are a whole word or a whole text."""

_UNFIT: Final = re.compile("[\ud800-\udfff\0]")


class Redaction:
    """Removes these credentials from text: raw or percent-encoded, in part or whole, in upper or lower case,
    once or repeatedly. `words` removes short ones too, which addresses and names may contain by chance."""

    def __init__(self, *credentials: str) -> None:
        self._credentials = tuple(each for each in credentials if len(each) >= SHORTEST)
        self._short = tuple(each for each in credentials if len(each) < SHORTEST and each.strip())

    def __call__(self, text: str) -> str:
        """The text without credentials, NULs and halves of surrogate pairs. Short credentials stay."""
        if not text.isascii() or "\0" in text:
            text = _UNFIT.sub("\ufffd", text)
        return self._pattern.sub(REDACTED, text) if self.is_in(text) else text

    @property
    def has_short(self) -> bool:
        """Whether any credential is short."""
        return bool(self._short)

    def words(self, text: str) -> str:
        """As a call, but also without short credentials that are a whole word, or the whole text. For text that a model
        or its provider has written."""
        text = self(text)
        return self._short_pattern.sub(REDACTED, text) if self._short else text

    def is_in(self, text: str) -> bool:
        """Whether the text contains a credential that is not short."""
        for each in self._credentials:  # a loop, since this runs for each text of each answer
            if each in text:
                return True
        return "%" in text and bool(self._credentials) and self._pattern.search(text) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Compiled only when needed: that is rare and takes a while."""
        return re.compile(_any_of(self._credentials))

    @cached_property
    def _short_pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?<!\w)(?:{_any_of(self._short)})(?!\w)")


@lru_cache(64)
def redaction_of(caller: Caller, *more: str) -> Redaction:
    """The redaction of all answers to this caller. `more` are other secrets that the provider knows."""
    return Redaction(*caller.credentials.values(), *more)


def _any_of(credentials: Iterable[str]) -> str:
    """A pattern that matches the longest first, since one may be a part of another."""
    return "|".join(map(_in_any_form, sorted(credentials, key=len, reverse=True)))


def _in_any_form(credential: str) -> str:
    return "".join(f"(?:{re.escape(each)}|{_encoded(each)})" for each in credential)


def _encoded(character: str) -> str:
    """A pattern for any percent-encoding of a character. An encoded percent sign is `%25`."""
    return "".join(f"%(?:25)*(?i:{byte:02x})" for byte in character.encode(errors="surrogatepass"))
