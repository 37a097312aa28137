"""The figures of calls to text models, for the status, the start page and the metrics.

They are those of the service's own account, and sums over all accounts: those of users are their own business.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from admission.metered.limits import MICRO
from admission.metered.snapshot import AccountStats, ClosedStats, LaneStats, MeteredStats, WindowStats
from contract.callers import ADMIN
from contract.states import iso8601
from generations.calls import Calls
from providers import UpstreamState
from service import Runtime
from telemetry.metrics import Metric, gauge


@dataclass(frozen=True, slots=True)
class CallsSeen:
    """The state of the gate of calls at one moment. `account` is that of the service's key."""

    total: MeteredStats
    account: AccountStats
    upstream: UpstreamState


def seen(service: Runtime) -> CallsSeen:
    """The present figures."""
    calls = service.core.calls
    assert calls is not None  # noqa: S101 - a whole service has them
    return service.loop.call(lambda: _of_the_loop(calls))


def _of_the_loop(calls: Calls) -> CallsSeen:
    return CallsSeen(calls.gate.statistics(), calls.gate.account_statistics(ADMIN), calls.provider.upstream)


def shown(service: Runtime, figures: CallsSeen) -> dict[str, Any]:
    """The figures as JSON."""
    account, total, upstream = figures.account, figures.total, figures.upstream
    return {
        "configured": service.settings.gemini_key is not None,
        "concurrency": {
            "concurrent_limit": account.concurrent_limit,
            "current_concurrent": account.in_flight,
            "available_slots": account.available_slots,
            "waiting": account.waiting,
        },
        "usd_per_10_minutes": {
            "used": account.micro_usd.used / MICRO,
            "limit": (account.micro_usd.limit or 0) / MICRO,
        },
        "closed": _closed(account.closed),
        "models": {each.model: _lane(each) for each in account.lanes},
        "all_accounts": {
            "accounts": total.accounts,
            "in_flight": total.in_flight,
            "waiting": total.waiting,
        },
        "upstream": {
            "last_answer_at": _moment(upstream.last_answer_at),
            "failing_since": _moment(upstream.failing_since),
            "throttled_until": _moment(upstream.throttled_until),
        },
    }


def metrics(figures: CallsSeen) -> Iterator[Metric]:
    """The figures for Prometheus."""
    account, total = figures.account, figures.total
    for name, text, value in (
        ("concurrent_limit", "Calls to text models of one account that may run at once.", account.concurrent_limit),
        ("concurrent", "Calls that run, of all accounts.", total.in_flight),
        ("waiting", "Calls that wait for admission, of all accounts.", total.waiting),
        ("accounts", "Accounts that have called text models.", total.accounts),
        ("usd_ten_minutes", "USD of the service's account in ten minutes, reserved or spent.",
         account.micro_usd.used / MICRO),
        ("account_closed_seconds", "Seconds for which the account is closed after a refusal.",
         0 if account.closed is None else account.closed.seconds),
    ):  # fmt: skip
        yield gauge(f"rcg_calls_{name}", text, value)
    lanes = account.lanes
    for name, text, values in (
        ("requests_minute", "Requests of the last 60 seconds.", {e.model: e.requests_per_minute.used for e in lanes}),
        ("requests_minute_limit", "Requests in any 60 seconds.",
         {e.model: e.requests_per_minute.limit for e in lanes}),
        ("prompt_tokens_minute", "Tokens of prompts of the last 60 seconds.",
         {e.model: e.tokens_per_minute.used for e in lanes}),
        ("prompt_tokens_minute_limit", "Tokens of prompts in any 60 seconds.",
         {e.model: e.tokens_per_minute.limit for e in lanes}),
        ("requests_day", "Requests of the provider's present day.", {e.model: e.requests_per_day.used for e in lanes}),
        ("model_waiting", "Calls that wait for this model.", {e.model: e.waiting for e in lanes}),
        ("closed_seconds", "Seconds for which the model is closed after a refusal.",
         {e.model: 0 if e.closed is None else e.closed.seconds for e in lanes}),
    ):  # fmt: skip
        yield Metric(f"rcg_calls_{name}", f"{text} Of the service's account.", values, "model")


def _lane(lane: LaneStats) -> dict[str, Any]:
    return {
        "in_flight": lane.in_flight,
        "waiting": lane.waiting,
        "requests_per_minute": _window(lane.requests_per_minute),
        "tokens_per_minute": _window(lane.tokens_per_minute),
        "requests_per_day": _window(lane.requests_per_day),
        "closed": _closed(lane.closed),
        "lowered": list(lane.lowered),
    }


def _window(window: WindowStats) -> Mapping[str, int | None]:
    return {"used": window.used, "limit": window.limit}


def _closed(closed: ClosedStats | None) -> dict[str, Any] | None:
    return None if closed is None else {"seconds": round(closed.seconds, 1), "why": closed.why}


def _moment(at: float | None) -> str | None:
    return None if at is None else iso8601(at)
