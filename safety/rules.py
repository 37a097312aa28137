"""Rules of the operator (SAFETY_FILE), which texts are compared with when a request is accepted.

    [[rules]]
    category = "sexual"
    action = "block"               # or "flag", which lets the request pass
    words = ["porn", "snuff film"]
    expressions = ['undress(?:es|ed|ing)? (?:him|her|them)']

A word matches whole, in any spelling (`normal_form.py`). Between its parts, any other characters may stand than letters
and digits. Words of scripts without spaces between words match anywhere. An expression is compared with the normal
form: small letters without marks, and one space for all blanks in a row. RE2 matches all rules at once, in time linear
in the length of the text.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safety.normal_form import AMBIGUOUS, forms
from settings import SettingsError
from settings.tables import read_table

Action = Literal["block", "flag"]

_SETTING: Final = "SAFETY_FILE"

_MEMORY: Final = 64 * 1024 * 1024
"""The most bytes of the compiled rules, with the state of RE2 while it matches."""

_SOME = Annotated[str, Field(min_length=1, max_length=1000)]

_ALIKE: Final = {"l": r"[l1|]", "i": r"[i1|]", "o": "[o0]", AMBIGUOUS: r"[li1|]"}
"""The characters that may stand for a letter of a word in the normal form."""

_ZERO: Final = re.compile("0(?:(?<=[a-z]0)0*|0*(?=[a-z]))")
_ONE: Final = re.compile("1(?:(?<=[a-z]1)1*|1*(?=[a-z]))")
"""Digits that may stand for letters in the normal form, since they are beside some."""

_COMBINED: Final = 3
"""Up to so many letters of a text that may be any of several are each taken for each, and more all for the same one."""

_UNSPACED: Final = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
)
"""Scripts that are written without spaces between words."""

_AROUND: Final = rf"[^\pL\pN]|[{_UNSPACED}]"
_BEFORE, _AFTER = rf"(?:^|{_AROUND})", rf"(?:$|{_AROUND})"

_BETWEEN: Final = r"[^\pL\pN]+"

_NAMES_UNSPACED: Final = re.compile("CJK |HIRAGANA|KATAKANA|BOPOMOFO|THAI |LAO |KHMER |MYANMAR |TIBETAN ")
"""The beginnings of the names of their letters."""


class _Rule(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    category: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
    action: Action = "block"
    words: list[_SOME] = []
    expressions: list[_SOME] = []


class _File(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    rules: list[_Rule]


@dataclass(frozen=True, slots=True)
class Found:
    """The categories of the rules that a text matches, those that block it and those that flag it, in the order of the
    file."""

    blocked: tuple[str, ...] = ()
    flagged: tuple[str, ...] = ()


NO_MATCH: Final = Found()


class Rules:
    """Compiled rules. `find` may be called in any thread."""

    def __init__(self, rules: Iterable[_Rule]) -> None:
        """Raises ValueError that lists all mistakes."""
        self._words, self._expressions = _Patterns(), _Patterns()
        wrong = []
        for rule in rules:
            about = rule.category, rule.action
            for word in rule.words:
                added = [self._words.add(pattern, about) for pattern in _patterns_of(word)]
                if not added or not all(added):
                    wrong.append(f"{rule.category}: {word!r} is no word")
            wrong += [
                f"{rule.category}: {expression!r} is no expression that RE2 takes"
                for expression in rule.expressions
                if not self._expressions.add(f"(?i:{expression})", about)
            ]
        if wrong:
            raise ValueError("\n".join(wrong))
        self._words.compile()
        self._expressions.compile()

    @classmethod
    def read(cls, path: Path) -> "Rules":
        """The rules of a TOML or JSON file. Raises SettingsError that lists all mistakes."""
        try:
            return cls(_File.model_validate(read_table(_SETTING, path)).rules)
        except ValidationError as invalid:
            sentences = [_sentence(each) for each in invalid.errors(include_url=False, include_input=False)]
        except ValueError as error:
            sentences = str(error).splitlines()
        raise SettingsError("\n".join(f"{_SETTING}: {each}." for each in sentences))

    def find(self, text: str) -> Found:
        """The categories that a text matches."""
        found: list[tuple[str, Action]] = []
        for form in forms(text):
            found += self._words.found_in(form)
            if self._expressions:
                for reading in _readings(form):
                    found += self._expressions.found_in(reading)
        if not found:
            return NO_MATCH
        return Found(
            tuple(dict.fromkeys(category for category, action in found if action == "block")),
            tuple(dict.fromkeys(category for category, action in found if action == "flag")),
        )


class _Patterns:
    """Patterns that RE2 matches in one pass, each with the category and action of its rule."""

    def __init__(self) -> None:
        import re2  # imported here, since most processes have no rules

        options = re2.Options()
        options.max_mem, options.log_errors = _MEMORY, False
        self._error, self._set = re2.error, re2.Set.SearchSet(options)
        self._about: list[tuple[str, Action]] = []

    def __bool__(self) -> bool:
        return bool(self._about)

    def add(self, pattern: str, about: tuple[str, Action]) -> bool:
        """Whether the pattern could be added."""
        try:
            self._set.Add(pattern.encode(errors="ignore"))
        except self._error:
            return False
        self._about.append(about)
        return True

    def compile(self) -> None:
        """Raises ValueError if the patterns are too large together."""
        if not self._about:
            return
        try:
            self._set.Compile()
        except self._error:
            raise ValueError("the rules need too much memory") from None

    def found_in(self, form: str) -> Iterator[tuple[str, Action]]:
        if self._about:
            yield from (
                self._about[index] for index in sorted(self._set.Match(form.encode(errors="ignore")) or ())
            )


def _readings(form: str) -> Iterator[str]:
    """The texts that expressions are compared with: a normal form as it is, and with each letter that may be meant."""
    form = " ".join(form.split())
    lettered = _ZERO.sub(lambda run: "o" * len(run[0]), form)
    lettered = _ONE.sub(lambda run: AMBIGUOUS * len(run[0]), lettered)
    for each in dict.fromkeys((form, lettered)):
        parts = each.split(AMBIGUOUS)
        ambiguous = len(parts) - 1
        combined = ambiguous <= _COMBINED
        choices = product("li", repeat=ambiguous) if combined else ("l" * ambiguous, "i" * ambiguous)
        if ambiguous:
            yield each
        for letters in choices:
            yield "".join(chain.from_iterable(zip(parts, (*letters, ""), strict=True)))


def _patterns_of(word: str) -> list[str]:
    """The patterns of a word: one for each of its normal forms. Empty if it has no letter and no digit."""
    return [pattern for form in forms(word) if (pattern := _pattern_of(form)) is not None]


def _pattern_of(form: str) -> str | None:
    parts = ["".join(part) for part in _parts(form)]
    if not parts:
        return None
    before = "" if _is_unspaced(parts[0][0]) else _BEFORE
    after = "" if _is_unspaced(parts[-1][-1]) else _AFTER
    return before + _BETWEEN.join("".join(map(_alike, part)) for part in parts) + after


def _parts(form: str) -> Iterator[list[str]]:
    part: list[str] = []
    for character in form:
        if character.isalnum() or character == AMBIGUOUS:
            part.append(character)
        elif part:
            yield part
            part = []
    if part:
        yield part


def _alike(character: str) -> str:
    return _ALIKE.get(character) or re.escape(character)


def _is_unspaced(character: str) -> bool:
    return _NAMES_UNSPACED.match(unicodedata.name(character, "")) is not None


def _sentence(error: Any) -> str:
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"])[1:]
    return f"{where or 'the file'}: {error['msg'][:1].lower()}{error['msg'][1:]}"
