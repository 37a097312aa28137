"""The text models of this service, with the names, limits and prices that their provider had on 26 November 2026.

Prices are USD for a million tokens, and thinking is billed as the answer. Cached input is a tenth of the input, and a
twentieth at Argon. The provider's pages have no hour for a change of prices, nor limits of requests per model.
"""

from datetime import date
from functools import partial
from typing import Final

from catalog.texts.models import TextModel, TextModels
from catalog.texts.prices import TokenPrice, rates
from contract.providers import CALLS

_Gemini = partial(TextModel, provider=CALLS)

_LOW_TO_HIGH: Final = ("low", "medium", "high")
_MINIMAL_TO_HIGH: Final = ("minimal", *_LOW_TO_HIGH)

_FLASH: Final = (
    TokenPrice(rates("0.75", "3.75", cached="0.075")),
    TokenPrice(rates("1.50", "7.50", cached="0.15"), since=date(2027, 1, 1)),
)
"""A promotion that ends with 2026."""

TEXT_MODELS: Final = TextModels(
    (
        _Gemini(
            name="gemini-3.8-flash",
            aliases=("gemini-flash-latest",),
            prices=_FLASH,
            thinking_levels=_LOW_TO_HIGH,
            thinking_default="medium",
            sampling="deprecated",
            description="The default for structured output and stories.",
        ),
        _Gemini(
            name="gemini-3.5-flash-lite",
            prices=(TokenPrice(rates("0.30", "2.50", cached="0.03")),),
            thinking_levels=_MINIMAL_TO_HIGH,
            thinking_default="minimal",
            description="The default for chat: fast and cheap.",
        ),
        _Gemini(
            name="gemini-4-argon",
            prices=(
                TokenPrice(rates("2", "10", cached="0.10")),
                TokenPrice(rates("4", "20", cached="0.20"), since=date(2026, 12, 1)),
            ),
            thinking_levels=_LOW_TO_HIGH,
            thinking_default="medium",
            sampling="ignored",
            description="The strongest. Prompt, thinking and answer share one limit. Not in the free tier.",
        ),
        _Gemini(
            name="gemini-3.6-flash",
            prices=_FLASH,
            thinking_levels=_MINIMAL_TO_HIGH,
            thinking_default="medium",
            sampling="deprecated",
        ),
        _Gemini(
            name="gemini-3.1-pro-preview",
            aliases=("gemini-3.1-pro", "gemini-pro-latest"),
            prices=(TokenPrice(rates("2", "12", cached="0.20"), long=rates("4", "18", cached="0.40")),),
            thinking_levels=_LOW_TO_HIGH,
            thinking_default="high",
            description="A preview, with small limits of its own.",
        ),
        _Gemini(
            name="gemini-3.1-flash-lite",
            prices=(TokenPrice(rates("0.25", "1.50", cached="0.025")),),
            ends=date(2027, 5, 7),
        ),
        _Gemini(
            name="gemini-2.5-flash-lite",
            prices=(TokenPrice(rates("0.10", "0.40", cached="0.01")),),
            thinking_levels=(),
            description="Without thinking.",
        ),
        _Gemini(name="gemini-3.7-flash", sent_as="gemini-3.8-flash", ends=date(2026, 10, 8)),
        _Gemini(name="gemini-3.5-flash", sent_as="gemini-3.6-flash", ends=date(2026, 10, 8)),
        _Gemini(
            name="gemini-2.5-flash",
            sent_as="gemini-3.5-flash-lite",
            prices=(TokenPrice(rates("0.30", "2.50", cached="0.03")),),
            ends=date(2026, 12, 1),
        ),
        _Gemini(
            name="gemini-2.5-pro",
            sent_as="gemini-3.8-flash",
            prices=(
                TokenPrice(rates("1.25", "10", cached="0.125"), long=rates("2.50", "15", cached="0.25")),
            ),
            ends=date(2026, 12, 1),
        ),
    )
)
