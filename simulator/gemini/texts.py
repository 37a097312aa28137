"""The filler of answers: words by a seed, and a text of exactly so many tokens."""

import random
from itertools import pairwise

from simulator.gemini import tokens

_WORDS = [
    "the",
    "light",
    "of",
    "a",
    "lamp",
    "falls",
    "on",
    "blue",
    "hills",
    "and",
    "small",
    "boats",
    "drift",
    "over",
    "calm",
    "water",
    "while",
    "an",
    "old",
    "fox",
    "waits",
    "near",
    "the",
    "long",
    "road",
    "home",
    "with",
    "rain",
    "and",
    "wind",
    "in",
    "its",
    "ears",
    "then",
    "comes",
    "day",
]


def words(chance: random.Random, amount: int) -> str:
    """So many words."""
    return " ".join(chance.choices(_WORDS, k=amount))


def pieces(text: str, amount: int) -> list[str]:
    """A text in at most so many pieces of about the same length. An empty text has none."""
    amount = max(1, min(amount, len(text)))
    marks = [len(text) * number // amount for number in range(amount + 1)]
    return [text[begin:end] for begin, end in pairwise(marks) if end > begin]


def of_tokens(amount: int, *, begin: str, seed: int) -> str:
    """A text of exactly so many tokens, which starts with `begin` as far as that fits."""
    missing = amount - tokens.of_text(begin)
    if missing <= 0:
        return tokens.prefix(begin, amount)
    chance = random.Random(seed)  # noqa: S311 - filler, not secrets
    # A word of at most four letters has one token with the space before it.
    short = [word for word in _WORDS if len(word) <= 4]
    return begin + "".join(f" {word}" for word in chance.choices(short, k=missing))
