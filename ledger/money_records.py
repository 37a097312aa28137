"""The records of costs: the usage of deleted generations, and the server's budget.

Amounts are USD.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """The usage of deleted generations: those of one caller with one model that ended on one `day` (UTC, counted from
    1970). The figures are those of `GET /usage`: `trainings` and `training_usd` are a part of `generations` and
    `usd`."""

    day: int
    caller_id: str
    model: str
    simulated: bool
    generations: int
    succeeded: int
    failures: int
    canceled: int
    images: int
    video_seconds: float
    usd: float
    credits: int
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    thinking_tokens: int = 0
    trainings: int = 0
    training_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class BudgetRecord:
    """What one process has spent of the server's budget on one `day` (UTC, counted from 1970), and what it had reserved
    when it last wrote this. Its latest day counts. In PostgreSQL only."""

    process: str
    day: int
    simulated: bool
    spent: float
    reserved: float
