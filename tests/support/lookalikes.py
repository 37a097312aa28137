"""Writes `safety/lookalikes.txt`, the letters that look alike, from the data of Unicode:

    pip install confusable-homoglyphs==3.3.1
    python -m tests.support.lookalikes > safety/lookalikes.txt

The package has Unicode's `confusables.txt` (UTS 39) as JSON. Each character is mapped to its prototype there, without
marks and in lower case. If that is not Latin, a character that Unicode names after a Latin letter, such as small
capitals, letters with a stroke and the symbols of flags, is mapped to that letter. ASCII itself is left out: `m` would
be `rn`, and so `pom` would be `porn`.
"""

import json
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib.resources import files

from safety.normal_form import AMBIGUOUS

HEAD = """\
# Characters that look like others: what each is mapped to, a tab, and the characters. Made by
# `python -m tests.support.lookalikes` from confusables.txt of Unicode (UTS 39, www.unicode.org/Public/security),
# as confusable-homoglyphs 3.3.1 has it. Data copyright (c) Unicode, Inc., Unicode License v3
# (www.unicode.org/license.txt).
"""

_NAMED = re.compile(
    r"(?:LATIN (?:SMALL |CAPITAL )?LETTER (?:SMALL CAPITAL )?"
    r"|REGIONAL INDICATOR SYMBOL LETTER "
    r"|(?:NEGATIVE |CROSSED NEGATIVE )(?:CIRCLED|SQUARED) LATIN CAPITAL LETTER )"
    r"([A-Z])(?: WITH .*)?"
)

_MARK = "\u200e"

_LINES = {"l", "I", "|"}

_ASCII = {*map(chr, range(0x80))}


def prototypes() -> dict[str, str]:
    """Characters with the prototypes that Unicode maps them to. The data has each pair twice, and a prototype has
    several others."""
    data = json.loads((files("confusable_homoglyphs") / "confusables.json").read_text(encoding="utf-8"))
    # Letters that are written from the right stand between marks of direction.
    alike = {text.strip(_MARK): [each["c"].strip(_MARK) for each in others] for text, others in data.items()}

    def is_prototype(text: str, of: str) -> bool:
        return len(text) > 1 or text.isascii() or len(alike[text]) > 1 or (of not in _ASCII and text < of)

    return {
        text: others[0]
        for text, others in alike.items()
        if len(text) == 1 and len(others) == 1 and is_prototype(others[0], text)
    }


def named_letter(character: str) -> str | None:
    """The Latin letter that a character is named after."""
    named = _NAMED.fullmatch(unicodedata.name(character, "")) if len(character) == 1 else None
    return named[1].lower() if named else None


def plain(text: str) -> str:
    """The text without marks and formatting, in lower case."""
    kept = (each for each in unicodedata.normalize("NFD", text) if unicodedata.category(each)[0] != "M")
    return "".join(each for each in kept if unicodedata.category(each) != "Cf").casefold()


def target(character: str, known: Mapping[str, str]) -> str | None:
    """What a character is mapped to; None if it stays. A small letter that has no Latin lookalike is mapped as its
    capital."""
    prototype, capital = known.get(character), known.get(character.upper(), "")
    found = plain(prototype or "").replace("rn", "m")
    if not found or not found.isascii():
        found = named_letter(character) or named_letter(prototype or "") or found
    if prototype in _LINES or (found == "i" and capital in _LINES):
        return AMBIGUOUS
    return found if found.isascii() else plain(capital) if capital.isascii() and capital else found


def lines() -> Iterator[str]:
    by_target: defaultdict[str, list[str]] = defaultdict(list)
    known = prototypes()
    for character in map(chr, range(0x80, sys.maxunicode + 1)):
        found = target(character, known)
        if found and found != character and (found == AMBIGUOUS or found.isalnum()):
            by_target[found].append(character)
    for found, alike in sorted(by_target.items()):
        yield f"{found}\t{''.join(alike)}\n"


if __name__ == "__main__":
    sys.stdout.write(HEAD + "".join(lines()))
