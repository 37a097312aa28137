"""The settings of the simulated Gemini."""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Disconnect = Literal["chunk", "whole"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiOptions:
    """The settings of the simulated Gemini, checked when created. Limits are those of a project that has no others.

    Args:
        first_seconds: From the arrival of a call to the first chunk of its answer.
        seconds: From the first chunk to the last one. A unary answer comes after both.
        chunks: The chunks of an answer, as far as it has so many tokens.
        output_tokens: The tokens of an answer without a schema.
        rpm: Requests to one model in any 60 seconds.
        tpm: Tokens of prompts to one model in any 60 seconds.
        rpd: Requests to one model in a day, which ends at midnight Pacific time; None for no limit.
        usd_per_10_minutes: The bill of a project in any 600 seconds, after which calls are refused; None for no limit.
        tier: "paid" or "free": the names of the quotas in refusals.
        refused_count: Whether refused requests take places in the windows, as some users report.
        disconnect: The bill of a call if its caller disconnects: up to the last "chunk" sent, or the "whole".
        date: The time at the start; None for the real one. Prices, routing and days follow from it.
        keep: The number of bills to keep. The oldest is dropped first.

    Raises:
        ValueError: If a setting is invalid. The message names it.
    """

    first_seconds: float = 0.2
    seconds: float = 0.5
    chunks: int = 5
    output_tokens: int = 60
    rpm: int = 1000
    tpm: int = 2_000_000
    rpd: int | None = None
    usd_per_10_minutes: float | None = None
    tier: Literal["paid", "free"] = "paid"
    refused_count: bool = False
    disconnect: Disconnect = "chunk"
    date: datetime | None = None
    keep: int = 100_000

    def __post_init__(self) -> None:
        for name in ("first_seconds", "seconds"):
            _check(name, getattr(self, name), 0, 3600)
        for name in ("chunks", "output_tokens", "rpm", "tpm", "keep"):
            _check(name, getattr(self, name), 1, 10**9, whole=True)
        if self.rpd is not None:
            _check("rpd", self.rpd, 0, 10**9, whole=True)
        if self.usd_per_10_minutes is not None:
            _check("usd_per_10_minutes", self.usd_per_10_minutes, 0, 10**6)
        if self.tier not in ("paid", "free"):
            raise ValueError(f'tier must be "paid" or "free", got {self.tier!r}')
        if self.disconnect not in ("chunk", "whole"):
            raise ValueError(f'disconnect must be "chunk" or "whole", got {self.disconnect!r}')
        if not isinstance(self.refused_count, bool):
            raise ValueError(f"refused_count must be true or false, got {self.refused_count!r}")
        if self.date is not None and not (isinstance(self.date, datetime) and self.date.tzinfo):
            raise ValueError(f"date must be a date with a time zone, got {self.date!r}")


def _check(name: str, value: object, least: float, most: float, *, whole: bool = False) -> None:
    kind = int if whole else (int, float)
    is_number = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not least <= value <= most:  # type: ignore[operator]
        raise ValueError(f"{name} must be a number from {least} to {most}, got {value!r}")
