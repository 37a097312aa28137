"""The normal form in which texts are compared with rules, so that a word cannot hide behind its spelling.

NFKC turns full-width, circled and mathematical letters into plain ones. Then the case is folded, marks and invisible
characters are dropped, and letters that look alike (UTS 39) become one (`lookalikes.txt`). A capital letter may look
like another letter than its small one: the Greek Eta like `H`, and eta like `n`. NFKC makes an `s` of the long one,
which looks like `f`. So a text has two forms, one with lookalikes found before NFKC and before the case is folded,
which are the same for most texts.

`l`, `I` and `1` look alike, but `fall` is not `fail`. So only foreign lookalikes of them become `AMBIGUOUS`, and so
do a capital `I` among small letters and a small `l` among capitals.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cache
from importlib.resources import files
from itertools import chain
from typing import Final

AMBIGUOUS: Final = "|"
"""A character that may be any of `l`, `i` and `1`."""

_CAPITALS: Final = re.compile("I(?<=[a-z]I)I*(?![A-Z])")
_SMALL: Final = re.compile("l(?<=[A-Z]l)(?:l*(?=[A-Z])|(?<=[A-Z]{2}l)l*(?![a-z]))")
"""A capital I among small letters, and a small l among capitals. Both begin with the letter, which is found fast."""

_BLANK: Final = re.compile("[\u2800\u3164\uffa0]")
_PARTING: Final = re.compile("[\u2800\u3164\uffa0\u200b]")
"""Characters that may stand for the blank between two words: they are shown as one, or were made to part words. Inside
a word they are dropped."""

_PARENTHESISED: Final = re.compile("[\u249c-\u24b5\U0001f110-\U0001f129]")

_PIECE: Final = 100_000
"""Characters that are normalised at once."""

_UNSEEN: Final = (
    (0x115F, 0x1160), (0x17B4, 0x17B5), (0x2065, 0x2065), (0x2800, 0x2800), (0x3164, 0x3164), (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF),
)  # fmt: skip
"""Ranges of invisible code points that are neither marks nor formatting: those that Unicode lists as ignorable, and the
blank pattern of Braille."""

_WITH_MARKS: Final = (range(0xA0, 0x20000), range(0xE0000, 0xE1000))
"""The code points among which marks and formatting are; all others are ideographs and unused."""

_COMMON: Final = range(0x3000)
"""The code points of most alphabets, and of punctuation."""


def forms(text: str) -> tuple[str, ...]:
    """The normal forms of a text: one or two, and as many again where a character may be a blank or stand inside a
    word."""
    if not _PARTING.search(text):
        return _of_pieces(text)
    readings = dict.fromkeys((text, _BLANK.sub(" ", text), _PARTING.sub(" ", text)))
    return tuple(dict.fromkeys(form for each in readings for form in _of_pieces(each)))


def _of_pieces(text: str) -> tuple[str, ...]:
    if len(text) <= _PIECE:
        return _forms(text)
    found = [*map(_forms, _pieces(text))]
    first, second = "".join(each[0] for each in found), "".join(each[-1] for each in found)
    return (first,) if first == second else (first, second)


def _pieces(text: str) -> Iterator[str]:
    """A long text in pieces, cut at blanks if there are any: to normalise megabytes at once would hold the lock of the
    interpreter, and so all other threads, for a second."""
    begin = 0
    while begin < len(text):
        end = begin + _PIECE
        cut = text.rfind(" ", begin + 1, end) if end < len(text) else -1
        yield text[begin : end if cut < 0 else cut]
        begin = end if cut < 0 else cut


def _forms(text: str) -> tuple[str, ...]:
    if text.isascii():
        return (_marked(text).translate(_controls()).casefold(),)
    text = _without_surrogates(text)
    if _PARENTHESISED.search(text):
        text = text.translate(_parenthesised())
    plain = _marked(unicodedata.normalize("NFKC", text))
    first = _folded(plain)
    if not _changing().isdisjoint(text):
        plain = _marked(unicodedata.normalize("NFKC", text.translate(_changed_by_nfkc())))
    second = _folded(_marked(plain.translate(_table())))
    return (first,) if first == second else (first, second)


def _marked(text: str) -> str:
    """The text with `AMBIGUOUS` for each letter that may be another."""
    for each in (_CAPITALS, _SMALL):
        text = each.sub(lambda run: AMBIGUOUS * len(run[0]), text)
    return text


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKD", text.casefold()).translate(_table())


def _without_surrogates(text: str) -> str:
    return text.encode(errors="ignore").decode()


@cache
def _controls() -> Mapping[int, None]:
    """Control characters, but for blanks."""
    return {code: None for code in chain(range(0x20), range(0x7F, 0xA0)) if not chr(code).isspace()}


@cache
def _parenthesised() -> Mapping[int, str]:
    """Letters in parentheses that are one character. NFKC would part them by these."""
    return {first + index: chr(0x61 + index) for first in (0x249C, 0x1F110) for index in range(26)}


@cache
def _table() -> Mapping[int, str | int | None]:
    """The replacements of characters: a letter that it looks like, or None if it is dropped. Common characters that
    stay as they are have themselves: a translation takes twice as long for a character without an entry."""
    table: dict[int, str | int | None] = {**_controls()}
    for code in chain(*_WITH_MARKS):
        if unicodedata.category(chr(code)) in {"Mn", "Mc", "Me", "Cf"}:
            table[code] = None
    for first, last in _UNSEEN:
        table |= dict.fromkeys(range(first, last + 1))
    for character, letter in _lookalikes():
        table.setdefault(ord(character), letter)
    return {code: code for code in _COMMON} | table


@cache
def _changed_by_nfkc() -> Mapping[int, str]:
    """Characters that look like a Latin letter, but become another by NFKC, are dropped as marks, or look like two
    letters. A capital `I` of another form may be an `l`, but a small letter of another form is that letter."""
    found = {}
    for character, letter in _lookalikes():
        normal = unicodedata.normalize("NFKC", character)
        is_latin = len(letter) == 1 and letter.isascii() and not letter.isdecimal()
        if is_latin and _folded(normal) != letter and (letter != AMBIGUOUS or normal not in {"l", "i", "1"}):
            found[ord(character)] = letter
    return found


@cache
def _changing() -> Set[str]:
    """The characters that it changes. To look for them first takes a fraction of the time of a translation."""
    return frozenset(map(chr, _changed_by_nfkc()))


@cache
def _lookalikes() -> Sequence[tuple[str, str]]:
    """Characters, each with the letter or the letters that it looks like."""
    lines = (files("safety") / "lookalikes.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.partition("\t") for line in lines if not line.startswith("#")]
    return [(character, letter) for letter, _, alike in rows for character in alike]
