"""The route of the metrics, which Prometheus scrapes."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from flask import Blueprint, Response, request

from api import admin, call_figures, incoming
from errors import Forbidden, LedgerDown
from ledger import Period
from service import VERSION, Runtime
from telemetry.metrics import Metric, exposition, gauge

_HOUR: Final = 3600.0

routes = Blueprint("metrics", __name__)


@routes.get("/metrics")
def metrics() -> Response:
    """The figures of the status and of the ledger, read at this moment."""
    principal = incoming.authenticate(for_metrics=True)
    if principal.role not in {"admin", "metrics"}:
        raise Forbidden("This request requires an admin key, or a key of the role `metrics`.")
    service = incoming.service()
    seen = admin.figures_of(service)
    calls = call_figures.metrics(call_figures.seen(service))
    found = [*_of_the_gate(seen), *calls, *_of_this_process(service, seen), *_of_the_ledger(service)]
    text, media_type = exposition(found, request.headers.get("Accept"))
    return Response(text, content_type=media_type)


def _of_the_gate(seen: admin.Seen) -> Iterator[Metric]:
    """The figures that all processes on a ledger have in common."""
    gate, stall, upstream = seen.gate, seen.gate.stall, seen.upstream
    for name, text, value in (
        ("concurrent_limit", "Predictions that may run at once.", gate.concurrent_limit),
        ("concurrent", "Predictions that run or start.", gate.current_concurrent),
        ("booting", "Predictions that wait for their model to boot.", gate.booting),
        ("waiting", "Generations that wait for admission.", gate.waiting),
        ("rate_limit", "Creations that may be sent in any 60 seconds.", gate.requests_per_minute_limit),
        ("rate", "Creations of the last 60 seconds.", gate.current_rate_per_minute),
        ("paused_seconds", "Seconds until the longest pause of a caller ends.", gate.paused_seconds),
        ("creations_in_doubt", "Creations whose answer was lost.", stall.in_doubt),
        ("stalled", "1 while Replicate is silent since a lost answer.", stall.is_on),
        ("last_answer_timestamp_seconds", "When Replicate last answered.", upstream.last_answer_at),
        ("failing_since_timestamp_seconds", "When requests began to fail.", upstream.failing_since),
        ("account_shared", "1 if another program uses the server's account.", seen.work.account_shared),
        ("clock_skew_seconds", "Seconds by which Replicate's clock is ahead.", seen.clock_skew),
        ("trainings", "Trainings that run or start.", seen.work.trainings_running),
        ("trainings_waiting", "Trainings that wait for their turn.", seen.work.trainings_waiting),
    ):
        yield gauge(f"rcg_{name}", text, value)


def _of_this_process(service: Runtime, seen: admin.Seen) -> Iterator[Metric]:
    own, limit = seen.own, service.settings.REPLICATE_OTHER_REQUESTS_PER_MINUTE
    yield Metric("rcg_build_info", "The version of the service.", {VERSION: 1}, "version")
    yield gauge(
        "rcg_uptime_seconds", "Seconds since this process started.", time.monotonic() - service.started
    )
    yield gauge("rcg_ledger_up", "1 while this process can write the ledger.", service.ledger.trouble is None)
    yield gauge("rcg_process_in_flight", "Generations of this process that run.", own.in_flight)
    yield gauge("rcg_process_waiting", "Generations of this process that wait.", own.waiting)
    yield gauge(
        "rcg_process_oldest_waiting_seconds",
        "How long the first of them has waited.",
        own.oldest_waiting_seconds,
    )
    yield gauge("rcg_process_other_rate", "Other requests of the last 60 seconds.", own.polls_per_minute)
    yield gauge("rcg_other_rate_limit", "Other requests that may be sent in any 60 seconds.", limit)
    judge = service.core.runner.screening.judge
    if judge is not None:
        judged = "Prompts of this process that a service has judged, or was to judge."
        yield Metric("rcg_safety_checks", judged, dict(judge.outcomes), "outcome", "counter")
    ended = "Generations of this process that have ended."
    yield Metric("rcg_generations", ended, dict(own.ended), "state", "counter")


def _of_the_ledger(service: Runtime) -> Iterator[Metric]:
    """What the ledger has of the last hour. Empty while it cannot be read."""
    simulated = service.settings.REPLICATE_SIMULATE
    yield gauge(
        "rcg_budget_left_usd", "USD left of the server's budget of today.", admin.budget_left(service)
    )
    period = Period(simulated=simulated, since=time.time() - _HOUR)
    try:
        failures = service.queries.failures(time.time() - _HOUR, simulated=simulated)
        groups, _ = service.loop.run(service.generations.usage(period, by=("model",)))
    except LedgerDown:
        return
    yield Metric("rcg_failures_last_hour", "Generations that failed within an hour.", failures, "code")
    for figure, text in (
        ("generations", "Generations that ended within an hour."),
        ("succeeded", "Generations that succeeded within an hour."),
        ("usd", "USD that the generations of the last hour cost."),
        ("calls", "Calls to text models of the last hour."),
        ("prompt_tokens", "Tokens of prompts of the last hour."),
        ("completion_tokens", "Tokens of answers of the last hour."),
        ("thinking_tokens", "Tokens of thinking of the last hour."),
    ):
        yield Metric(f"rcg_{figure}_last_hour", text, _by_model(groups, figure), "model")


def _by_model(groups: Sequence[Mapping[str, Any]], figure: str) -> Mapping[str, float]:
    return {each["model"]: each[figure] for each in groups}
