"""Prices of text models: what a call costs by its tokens, and the most that it may cost.

A price is in USD for a million tokens, so it is also in micro-dollars (a millionth of a USD) for a token. Costs are
whole micro-dollars. The sum of a call is exact, and is rounded once, half up, as in a bill. Bounds are rounded up.

A price that changes on a date changes at 00:00 UTC: the providers name no hour, and UTC is the earliest likely one, so
a raised price is never applied too late. The price of a call is the one in force when its answer ended.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Any, Final, Protocol

LONG_PROMPT: Final = 200_000
"""Prompts with more tokens than this cost the `long` rates of a price, if it has such."""

FIRST_DAY: Final = date(2025, 1, 1)
"""Since when a price holds that has no date: before this service had text models."""


class Tokens(Protocol):
    """The tokens of a call. The prompt includes the cached ones, and the completion excludes thinking."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def thinking_tokens(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Rates:
    """Micro-dollars for a token of the prompt, of the answer with its thinking, and of the cached part of a prompt."""

    prompt: Fraction
    answer: Fraction
    cached: Fraction

    def cost(self, tokens: Tokens) -> Fraction:
        """The exact micro-dollars of a call with these tokens."""
        cached = min(tokens.cached_tokens, tokens.prompt_tokens)
        answer = tokens.completion_tokens + tokens.thinking_tokens
        return self.prompt * (tokens.prompt_tokens - cached) + self.cached * cached + self.answer * answer

    def bound(self, prompt_tokens: int, max_output_tokens: int) -> Fraction:
        """The most micro-dollars of a call with at most so many tokens, if none is cached."""
        return max(self.prompt, self.cached) * prompt_tokens + self.answer * max_output_tokens

    def as_json(self) -> dict[str, float]:
        return {
            "prompt": float(self.prompt),
            "answer": float(self.answer),
            "cached": float(self.cached),
        }


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """The rates from a date on, until another price of the model begins. `long` are those of long prompts."""

    rates: Rates
    long: Rates | None = None
    since: date = FIRST_DAY

    def at_size(self, prompt_tokens: int) -> Rates:
        """The rates of a prompt with so many tokens, of which the cached ones are part."""
        return self.long if self.long is not None and prompt_tokens > LONG_PROMPT else self.rates

    def as_json(self) -> dict[str, Any]:
        """The price in the body of `GET /models`: USD for a million tokens."""
        body: dict[str, Any] = self.rates.as_json()
        if self.long is not None:
            body["long_prompts"] = {"above_tokens": LONG_PROMPT, **self.long.as_json()}
        return body if self.since == FIRST_DAY else body | {"since": self.since.isoformat()}


Prices = Sequence[TokenPrice]
"""The prices of one model, the oldest first."""


def price_at(prices: Prices, at: float) -> TokenPrice:
    """The price in force at a Unix time. Before the first one, that is the first."""
    day = datetime.fromtimestamp(at, UTC).date()
    return next((each for each in reversed(prices) if each.since <= day), prices[0])


def cost(prices: Iterable[Prices], tokens: Tokens, at: float) -> int:
    """The micro-dollars of a call by the Unix time at which its answer ended. Of several models, the dearest
    counts."""
    found = (price_at(each, at).at_size(tokens.prompt_tokens).cost(tokens) for each in prices)
    return math.floor(max(found) + Fraction(1, 2))


def bound(
    prices: Iterable[Prices], *, prompt_tokens: int, max_output_tokens: int, begin: float, end: float
) -> int:
    """The most micro-dollars of a call that is sent and answered between two Unix times, at the dearest of these
    models. `prompt_tokens` may be an upper estimate."""
    found = (
        at_size.bound(prompt_tokens, max_output_tokens)
        for each in prices
        for price in _in_force(each, begin, end)
        for at_size in (price.rates, price.at_size(prompt_tokens))
    )
    return math.ceil(max(found))


def _in_force(prices: Prices, begin: float, end: float) -> Iterator[TokenPrice]:
    """Every price that is in force at some time between two Unix times."""
    yield price_at(prices, begin)
    yield from (each for each in prices if begin < _first_second(each.since) <= end)


def _first_second(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def rates(prompt: str, answer: str, *, cached: str) -> Rates:
    """Rates in USD for a million tokens, written as decimals."""
    return Rates(Fraction(prompt), Fraction(answer), Fraction(cached))
