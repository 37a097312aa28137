"""Trigger words of LoRAs: a word that the training has tied to its subject. No model has an input for it, so it must be
a word of the prompt.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from catalog.adaptation import Change
from catalog.model import Model
from catalog.registry import Registry
from settings import SettingsError
from settings.tables import read_table

TriggerWords = Mapping[str, str]
"""The words by model: `owner/name`, for each of its versions, or `owner/name:version`."""

FIELD: Final = "trigger_word"
"""The field of a request with the word that is put in front of its prompt."""

_MODEL: Final = re.compile(r"[\w.-]+/[\w.-]+(:[0-9a-f]{64})?")
_LONGEST: Final = 100


def has_word(prompt: str, word: str) -> bool:
    """Whether the prompt has the word, or words, in any case and as a word of its own."""
    words = r"\s+".join(re.escape(each) for each in word.split())
    return re.search(rf"(?<!\w){words}(?!\w)", prompt, re.IGNORECASE) is not None


def put_in_front(word: str | None, prompt: str) -> tuple[str, tuple[Change, ...]]:
    """The prompt with the word in front, and that change; the same prompt if there is no word or it has it already."""
    if word is None or has_word(prompt, word):
        return prompt, ()
    sent = f"{word} {prompt}".rstrip()
    return sent, (Change(FIELD, word, "prompt", sent),)


def told_missing(word: str, model: Model) -> str:
    """The warning that a prompt has not the word of its model."""
    return f"The prompt has no {word}, the trigger word of {model.short_name}. It may stand in {FIELD}, too."


def word_of(model: Model, words: TriggerWords) -> str | None:
    """The trigger word of a model, None if none is known. The operator's come first."""
    return words.get(model.target) or words.get(model.name) or model.trigger_word


def read_trigger_words(path: Path, registry: Registry) -> TriggerWords:
    """The words of a TOML or JSON file. A declared model may have its alias there:

        "acme/watercolor" = "WTRCLR"
        "acme/portraits:4cae8a4a…" = "TOK"
        flux-dev-lora = "GLSTN"

    Raises SettingsError that lists all mistakes.
    """
    words: dict[str, str] = {}
    wrong = []
    for given, word in read_table("TRIGGER_WORDS_FILE", path).items():
        declared = registry.find(given)
        name = given if declared is None else declared.name
        if not _MODEL.fullmatch(name):
            wrong.append(f"{given[:100]} is no owner/name, owner/name:version or alias of a model")
        elif not isinstance(word, str) or not 0 < len(word.strip()) == len(word) <= _LONGEST:
            wrong.append(f"{given[:100]} must have a word of at most {_LONGEST} characters")
        elif words.setdefault(name, word) != word:
            wrong.append(f"{given[:100]} is there by two names, with two words")
    if wrong:
        raise SettingsError("\n".join(f"TRIGGER_WORDS_FILE: {sentence}." for sentence in wrong))
    return words
