"""The text models: limits, thinking levels, prices by date, and the models that answer for old ones.

A table of the simulator's own, so that its bill is a second opinion. As of November 2026:

- Models, limits, thinking levels and prices: ai.google.dev/gemini-api/docs/models, /thinking, /pricing; the prices of
  gemini-4-argon from 2026-12-01 and of the 3.6 and 3.8 models from 2027-01-01 are announced there.
- Old models: ai.google.dev/gemini-api/docs/changelog (2026-10-08) and /deprecations (2026-12-01).

A price in USD for a million tokens is as many micro-dollars for one token. Prices and routes change at 00:00 UTC.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from fractions import Fraction
from math import floor

LONG_PROMPT = 200_000
_EVER = date(1970, 1, 1)
LEVELS = ("minimal", "low", "medium", "high")
_UPPER = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Price:
    """USD for a million tokens of prompt, cached prompt and output, from a date on."""

    prompt: str
    cached: str
    output: str
    since: date = _EVER
    long: tuple[str, str, str] | None = None


@dataclass(frozen=True, slots=True)
class TextModel:
    """A model. `levels` are its thinking levels, none for a model that has a thinking budget instead."""

    name: str
    title: str
    prices: tuple[Price, ...]
    levels: tuple[str, ...] = LEVELS
    level: str = "medium"
    budget: bool = True
    samples: bool = True
    prompt_limit: int = 1_048_576
    output_limit: int = 65_536


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of a call; the cached ones are part of the prompt."""

    prompt: int = 0
    cached: int = 0
    output: int = 0
    thoughts: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.output + self.thoughts


_FLASH = (
    Price("0.75", "0.075", "3.75"),
    Price("1.50", "0.15", "7.50", since=date(2027, 1, 1)),
)

MODELS = {
    each.name: each
    for each in (
        TextModel(
            "gemini-4-argon",
            "Gemini 4 Argon",
            (Price("2", "0.10", "10"), Price("4", "0.20", "20", since=date(2026, 12, 1))),
            levels=_UPPER,
            budget=False,
            samples=False,
        ),
        TextModel("gemini-3.8-flash", "Gemini 3.8 Flash", _FLASH, levels=_UPPER),
        TextModel("gemini-3.7-flash", "Gemini 3.7 Flash", _FLASH, levels=_UPPER),
        TextModel("gemini-3.6-flash", "Gemini 3.6 Flash", _FLASH),
        TextModel("gemini-3.5-flash", "Gemini 3.5 Flash", _FLASH),
        TextModel(
            "gemini-3.5-flash-lite",
            "Gemini 3.5 Flash-Lite",
            (Price("0.30", "0.03", "2.50"),),
            level="minimal",
        ),
        TextModel(
            "gemini-3.1-flash-lite",
            "Gemini 3.1 Flash-Lite",
            (Price("0.25", "0.025", "1.50"),),
            level="minimal",
        ),
        TextModel(
            "gemini-3.1-pro-preview",
            "Gemini 3.1 Pro Preview",
            (Price("2", "0.20", "12", long=("4", "0.40", "18")),),
            levels=_UPPER,
            level="high",
        ),
        TextModel(
            "gemini-2.5-flash-lite",
            "Gemini 2.5 Flash-Lite",
            (Price("0.10", "0.01", "0.40"),),
            levels=(),
            level="off",
        ),
        TextModel(
            "gemini-2.5-flash", "Gemini 2.5 Flash", (Price("0.30", "0.03", "2.50"),), levels=(), level="low"
        ),
        TextModel(
            "gemini-2.5-pro",
            "Gemini 2.5 Pro",
            (Price("1.25", "0.125", "10", long=("2.50", "0.25", "15")),),
            levels=(),
        ),
    )
}

ROUTES = {
    "gemini-3.7-flash": (date(2026, 10, 8), "gemini-3.8-flash"),
    "gemini-3.5-flash": (date(2026, 10, 8), "gemini-3.6-flash"),
    "gemini-2.5-pro": (date(2026, 12, 1), "gemini-3.8-flash"),
    "gemini-2.5-flash": (date(2026, 12, 1), "gemini-3.5-flash-lite"),
    "gemini-flash-latest": (_EVER, "gemini-3.8-flash"),
    "gemini-pro-latest": (_EVER, "gemini-3.1-pro-preview"),
}
"""The models that answer for others, and since when."""

GONE = {"gemini-3.1-flash-lite": date(2027, 5, 7)}
"""The models that are 404 from a day on."""

THINKING = {"off": 0, "minimal": 0, "low": 24, "medium": 96, "high": 320}
"""The tokens of thinking by level. Real ones stray by far; these are for tests."""


def find(name: str, at: datetime) -> TextModel | None:
    """The model that answers to `name` at a time, or None."""
    day = at.astimezone(UTC).date()
    since, successor = ROUTES.get(name, (date.max, ""))
    name = successor if day >= since else name
    return None if day >= GONE.get(name, date.max) else MODELS.get(name)


def cost(name: str, usage: Usage, at: datetime) -> int:
    """The micro-dollars of a call that model `name` answered, rounded half up. 0 for an unknown model."""
    model = MODELS.get(name)
    if model is None:
        return 0
    day = at.astimezone(UTC).date()
    price = [each for each in model.prices if each.since <= day][-1]
    rates = (price.prompt, price.cached, price.output)
    if price.long is not None and usage.prompt > LONG_PROMPT:
        rates = price.long
    amounts = (usage.prompt - usage.cached, usage.cached, usage.output + usage.thoughts)
    exact = sum(Fraction(rate) * amount for rate, amount in zip(rates, amounts, strict=True))
    return floor(exact + Fraction(1, 2))
