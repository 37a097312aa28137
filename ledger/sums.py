"""Sums of the USD that all processes have spent and reserved, in PostgreSQL: of a budget, and of a named key."""

from datetime import UTC, datetime
from typing import Any, Final

BUDGET_TOTAL: Final = """
    SELECT (
        SELECT coalesce(sum(spent), 0) FROM budgets WHERE day >= %s AND simulated = %s
    ) + (
        SELECT coalesce(sum(latest.reserved), 0) FROM processes CROSS JOIN LATERAL (
            SELECT reserved FROM budgets WHERE process = processes.id AND simulated = %s ORDER BY day DESC LIMIT 1
        ) latest WHERE processes.taken_at IS NULL
    ) + (
        SELECT coalesce(sum(reserved_usd), 0) FROM generations
        WHERE ended_at IS NULL AND taken_at IS NOT NULL AND simulated = %s
            AND (caller_id = %s OR %s = 'admin' AND starts_with(caller_id, 'key_'))
    ) AS total
"""
"""The statement for `Queries.budget_total` in PostgreSQL. Its parameters are those of `total_of`."""

SPENDING: Final = """
    SELECT (
        SELECT coalesce(sum(spent), 0) FROM spending WHERE payer = %s AND period >= %s AND simulated = %s
    ) AS spent, (
        SELECT coalesce(sum(reserved), 0) FROM spending
        JOIN processes ON processes.id = process AND processes.taken_at IS NULL
        WHERE payer = %s AND period >= %s AND spending.simulated = %s
    ) + (
        SELECT coalesce(sum(reserved_usd), 0) FROM generations
        WHERE ended_at IS NULL AND taken_at IS NOT NULL AND caller_id = %s AND simulated = %s AND accepted_at >= %s
    ) AS reserved
"""
"""The statement for `Queries.spending` in PostgreSQL. Its parameters are those of `spending_of`."""


def total_of(account: str, day: int, simulated: bool) -> tuple[Any, ...]:
    """The parameters of `BUDGET_TOTAL`."""
    return day, simulated, simulated, simulated, account, account


def spending_of(payer: str, since: str, simulated: bool) -> tuple[Any, ...]:
    """The parameters of `SPENDING`."""
    return payer, since, simulated, payer, since, simulated, payer, simulated, moment_of(since)


def moment_of(day: str) -> float:
    """The Unix time at which a day begins in UTC, such as `2026-11-01`."""
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
