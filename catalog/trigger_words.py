"""Trigger words of LoRAs: a word that the training has tied to its subject. No model has an input for it, so it must be
a word of the prompt.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from catalog.model import Model
from settings import SettingsError
from settings.tables import read_table

TriggerWords = Mapping[str, str]
"""The words by model: `owner/name`, for each of its versions, or `owner/name:version`."""

_MODEL: Final = re.compile(r"[\w.-]+/[\w.-]+(:[0-9a-f]{64})?")
_LONGEST: Final = 100


def has_word(prompt: str, word: str) -> bool:
    """Whether the prompt has the word, in any case, as a word of its own."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt, re.IGNORECASE) is not None


def with_word(prompt: str, word: str) -> str:
    """The prompt with the word in front, unless it has it already."""
    return prompt if has_word(prompt, word) else f"{word} {prompt}"


def word_of(model: Model, words: TriggerWords) -> str | None:
    """The trigger word of a model, None if none is known."""
    return words.get(model.target) or words.get(model.name)


def read_trigger_words(path: Path) -> TriggerWords:
    """The words of a TOML or JSON file:

        "acme/watercolor" = "WTRCLR"
        "acme/portraits:4cae8a4a…" = "TOK"

    Raises SettingsError that lists all mistakes.
    """
    table = read_table("TRIGGER_WORDS_FILE", path)
    wrong = [
        f"{name[:100]} must be owner/name or owner/name:version, with a word of at most {_LONGEST} characters"
        for name, word in table.items()
        if not (
            _MODEL.fullmatch(name)
            and isinstance(word, str)
            and word.strip() == word
            and 0 < len(word) <= _LONGEST
        )
    ]
    if wrong:
        raise SettingsError("\n".join(f"TRIGGER_WORDS_FILE: {sentence}." for sentence in wrong))
    return table
